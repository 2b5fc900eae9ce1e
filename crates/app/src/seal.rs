//! `evergrant seal …`: the keys that seal pairs in the database (SPEC §11, §13).

use std::collections::BTreeMap;
use std::process::ExitCode;

use evergrant_core::ChainName;
use evergrant_store::seal::{KeyRing, SealError};
use evergrant_store::vault::{Row, VaultState as _};
use serde_json::json;

use crate::cli::SealCommand;
use crate::config::Settings;
use crate::host::Host;
use crate::output::{self, BAD, DIM, GOOD, WARN};

/// So many rows are read at once.
const PAGE: usize = 500;
/// So often a row is read again because somebody has moved it meanwhile.
const MOST_READINGS: usize = 8;
/// So many chains that do not open are named.
const MOST_NAMED: usize = 20;

/// Prints a new key. It needs no configuration.
pub(crate) fn new_key() -> ExitCode {
    let line = KeyRing::new_key(&mut rand::make_rng::<rand::rngs::StdRng>());
    anstream::println!("{}", line.as_str());
    ExitCode::SUCCESS
}

/// Runs one of the others.
pub(crate) async fn run(
    host: &Host,
    settings: &Settings,
    command: &SealCommand,
    json: bool,
) -> Result<ExitCode, String> {
    let keys = settings.database.as_ref().and_then(|database| database.seal.as_ref());
    let Some(keys) = keys else {
        return Err("pairs are sealed in a database only: set database_url, and [seal] key_file".into());
    };
    let ring = &keys.ring;
    match command {
        SealCommand::NewKey => Ok(new_key()),
        SealCommand::Status => status(host, ring, json).await,
        SealCommand::RotateKey => rotate(host, ring, json).await,
    }
}

/// Goes through all rows, a page at a time.
async fn pages(host: &Host, after: Option<&ChainName>) -> Result<Vec<Row>, String> {
    host.state.rows_after(after, PAGE).await.map_err(|error| error.to_string())
}

async fn status(host: &Host, ring: &KeyRing, json: bool) -> Result<ExitCode, String> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut after = None;
    loop {
        let rows = pages(host, after.as_ref()).await?;
        let Some(last) = rows.last() else { break };
        after = Some(last.record.chain.clone());
        for row in &rows {
            let id = row.sealed.key_id().map_or_else(|| "none".to_owned(), |id| id.to_string());
            *counts.entry(id).or_default() += 1;
        }
    }
    let ids: Vec<_> = ring.ids().map(|id| id.to_string()).collect();
    let unknown: u64 = counts.iter().filter(|(id, _)| !ids.contains(id)).map(|(_, count)| count).sum();
    if json {
        let keys: Vec<_> = ids
            .iter()
            .enumerate()
            .map(|(index, id)| json!({ "id": id, "seals": index == 0, "rows": counts.get(id).copied().unwrap_or(0) }))
            .collect();
        let others: BTreeMap<_, _> = counts.iter().filter(|(id, _)| !ids.contains(id)).collect();
        output::json(&json!({ "keys": keys, "rows_under_other_keys": others }));
    } else {
        for (index, id) in ids.iter().enumerate() {
            let rows = counts.get(id).copied().unwrap_or(0);
            let word = if index == 0 { "seals" } else { "opens" };
            anstream::println!("{id}  {GOOD}{word}{GOOD:#}  {rows} rows");
        }
        for (id, rows) in counts.iter().filter(|(id, _)| !ids.contains(id)) {
            anstream::println!(
                "{id}  {BAD}missing{BAD:#}  {rows} rows do not open: add this key behind the first"
            );
        }
    }
    Ok(ExitCode::from(if unknown == 0 { output::FINE } else { output::NEEDS_SOMEBODY }))
}

/// What became of the rows.
#[derive(Debug, Default)]
struct Counts {
    resealed: u64,
    already: u64,
    unopened: Vec<(ChainName, SealError)>,
}

async fn rotate(host: &Host, ring: &KeyRing, json: bool) -> Result<ExitCode, String> {
    let mut counts = Counts::default();
    let mut after = None;
    loop {
        let rows = pages(host, after.as_ref()).await?;
        let Some(last) = rows.last() else { break };
        after = Some(last.record.chain.clone());
        for row in rows {
            reseal(host, ring, row, &mut counts).await?;
        }
        if !json {
            let Counts { resealed, already, .. } = &counts;
            anstream::eprintln!("{DIM}{resealed} sealed anew, {already} were already{DIM:#}");
        }
    }
    let key = ring.current();
    let (receipts, unopened_receipts) = match &host.rows {
        Some(rows) => rows.reseal_receipts(&host.world).await,
        None => (0, 0),
    };
    let whole = counts.unopened.is_empty() && unopened_receipts == 0;
    if json {
        let named = counts.unopened.iter();
        let named: Vec<_> =
            named.map(|(chain, error)| json!({ "chain": chain, "error": error.to_string() })).collect();
        output::json(
            &json!({ "ok": whole, "key": key.to_string(), "receipts": receipts, "resealed": counts.resealed,
            "already": counts.already, "unopened": named }),
        );
    } else {
        let rows = counts.resealed + counts.already;
        anstream::println!("{GOOD}{rows} rows{GOOD:#} are sealed under key {key}");
        for (chain, error) in counts.unopened.iter().take(MOST_NAMED) {
            anstream::println!("  {WARN}{chain}{WARN:#}: {error}");
        }
        if whole {
            anstream::println!(
                "Take other keys out on each server once it was restarted with {key} as its first: then its own receipts \
                 are sealed anew too."
            );
        } else {
            let left = counts.unopened.len();
            anstream::println!(
                "{BAD}{left} rows and the receipts of {unopened_receipts} chains do not open{BAD:#} and stay as they \
                 are: keep all keys"
            );
        }
    }
    Ok(ExitCode::from(if whole { output::FINE } else { output::FAILED }))
}

/// Seals one row anew, wherever a renewal moves it meanwhile.
async fn reseal(host: &Host, ring: &KeyRing, row: Row, counts: &mut Counts) -> Result<(), String> {
    let failed = |error: evergrant_store::StateError| error.to_string();
    let mut row = Some(row);
    for _ in 0..MOST_READINGS {
        let Some(Row { record, sealed, .. }) = row else { return Ok(()) };
        let chain = &record.chain;
        match ring.reseal_pair(chain, record.position(), &sealed, &mut host.world.key_rng()) {
            Ok(None) => {
                counts.already += 1;
                return Ok(());
            }
            Ok(Some(new)) => {
                if host.state.reseal(chain, &sealed, &new).await.map_err(failed)? {
                    counts.resealed += 1;
                    return Ok(());
                }
            }
            Err(error) => {
                counts.unopened.push((chain.clone(), error));
                return Ok(());
            }
        }
        row = host.state.row(chain).await.map_err(failed)?;
    }
    Err("others keep moving a chain: run it again".into())
}
