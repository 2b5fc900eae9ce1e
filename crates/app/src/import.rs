//! `evergrant import`: takes over a login from a file, judged as a push is (SPEC §5).

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use evergrant_core::Reason;
use evergrant_core::audit::{Act, Actor};
use evergrant_core::authfile::{self, MAX_LEN, Reading};
use evergrant_core::grant::Grant;
use evergrant_core::probe::Verdict;
use evergrant_core::push::{Identity, same_identity};
use evergrant_server::keeper::{Import, Refused};
use evergrant_server::renewable::Pass;
use evergrant_server::{Login, Renewable as _, World as _, probe};
use evergrant_store::{HealthState as _, State as _, StateError};
use serde_json::json;

use crate::cli::ImportArgs;
use crate::commands::{audit, exit_of, print};
use crate::host::{Chain, World};
use crate::output;

pub(crate) async fn run(
    chain: &Chain,
    args: &ImportArgs,
    who: Actor,
    json: bool,
) -> Result<ExitCode, String> {
    let file = args.file.as_path();
    let standard_input = file == Path::new("-");
    if args.remove && standard_input {
        return Err("--move needs a file, and standard input is none".into());
    }
    let login = chain.login("import into")?;
    let same = |other: &Path| {
        file.canonicalize().is_ok_and(|file| other.canonicalize().is_ok_and(|other| file == other))
    };
    if chain.auth_file().is_some_and(same) {
        return Err(format!(
            "{} is this chain's own auth file; what is put there is taken over by itself",
            file.display()
        ));
    }
    let (grant, identity) = read(chain, file)?;
    let refused = match judge(chain, &login, (&grant, identity.as_ref()), args).await {
        Err(refused) => refused,
        Ok(()) => match login.import(grant).await {
            Import::Refused(refused) => refused,
            Import::Taken(report) => {
                print(&report, chain, json);
                audit(chain, who, Act::GrantImported).await;
                if let Some(identity) = &identity {
                    remember(chain, identity).await;
                }
                return taken(file, args.remove, standard_input).map(|()| exit_of(&report));
            }
        },
    };
    if json {
        output::json(&json!({ "ok": false, "error": refused.reason, "detail": refused.detail }));
        return Ok(ExitCode::from(output::FAILED));
    }
    Err(format!("not imported ({}): {}; nothing was changed", refused.reason, refused.detail))
}

/// The login is taken whether or not this is known: it only guards what is brought in next.
async fn remember(chain: &Chain, identity: &Identity) {
    if let Err(error) = chain.world.state().keep_identity(chain.chain(), identity).await {
        output::warn(format!("whose login it is could not be written down: {error}"));
    }
}

/// The source must never renew again: it would be a second writer.
fn taken(file: &Path, remove: bool, standard_input: bool) -> Result<(), String> {
    let shown = file.display();
    if remove {
        return std::fs::remove_file(file)
            .map_err(|error| format!("imported, but {shown} cannot be removed: {error}; remove it by hand"));
    }
    if !standard_input {
        output::warn(format!(
            "{shown} must not be used any more: whoever renews from it breaks the chain. Remove it (--move does)"
        ));
    }
    Ok(())
}

/// The grant, and whose it is if the file says so.
fn read(chain: &Chain, file: &Path) -> Result<(Grant, Option<Identity>), String> {
    let mut bytes = Vec::new();
    let failed = |error: std::io::Error| format!("{} cannot be read: {error}", file.display());
    if file == Path::new("-") {
        std::io::stdin().take(MAX_LEN as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        let opened = std::fs::File::open(file).map_err(failed)?;
        opened.take(MAX_LEN as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    }
    match authfile::read(&bytes, chain.profile()) {
        Reading::Grant(grant) => Ok((grant, authfile::identity(&bytes))),
        Reading::Wiped => {
            Err(format!("{} holds no login: its tokens are empty. Log in again", file.display()))
        }
        Reading::Malformed(fault) => Err(format!("{}: {fault}", file.display())),
    }
}

async fn judge(
    chain: &Chain,
    login: &Login<'_, World>,
    (grant, identity): (&Grant, Option<&Identity>),
    args: &ImportArgs,
) -> Result<(), Refused> {
    login.judge(grant)?;
    let refuse = |reason: Reason, detail: &str| Err(Refused { reason, detail: detail.into() });
    let name = chain.chain();
    let failed = |error: StateError| Refused { reason: Reason::StateUnavailable, detail: error.to_string() };
    let state = chain.world.state();
    if state.was_replaced(name, grant.pair().fingerprint()).await.map_err(failed)? {
        return refuse(Reason::GrantSpent, "the chain has replaced this pair already: log in again");
    }
    let known = state.identity(name).await.map_err(failed)?;
    let how = format!("evergrant import FILE --chain {name} --accept-new-identity");
    same_identity(known.as_ref(), identity, args.accept_new_identity, &how)
        .map_err(|refusal| Refused { reason: refusal.reason, detail: refusal.detail })?;
    let live = grant.expires_at.is_none_or(|at| at > chain.world.now());
    if args.skip_probe || !live {
        return Ok(());
    }
    let profile = chain.profile();
    let probed =
        probe::probe_token(chain.world.client(), profile, &Pass::AccessToken(grant.access.clone()), None)
            .await;
    match probed.verdict {
        Verdict::Works | Verdict::Limited => Ok(()),
        Verdict::Refused => refuse(Reason::ProbeRefused, "the API refuses its access token; log in again"),
        Verdict::Unavailable => {
            refuse(Reason::ProbeUnavailable, "the API does not answer; try again, or use --skip-probe")
        }
    }
}
