//! What must hold of a crash state: a keeper that starts on it finds its way, and loses nothing that had reached it
//! (SPEC §4, I4, I5, I7, I9, L1, L3).

use std::path::Path;
use std::time::Duration;

use evergrant_core::Reason;
use evergrant_core::keeper::{Look, Report};

use super::disk::{Edit, Moment};
use super::image::Image;
use super::room::{FILE, LIFE_SECS, Room};
use super::scenarios::{Recorded, has_note};

/// The part of a life at whose beginning a pair in doubt may be presented again, in seconds.
const LAST_CHANCE_SECS: u64 = 600;

/// Judges one state. `remembers`: the new process has the state's old record.
pub(super) fn judge(
    recorded: &Recorded,
    image: &Image,
    moment: &Moment,
    remembers: bool,
) -> Result<(), String> {
    let facts = &moment.facts;
    let there = image.names.contains_key(Path::new(FILE));
    if !there && !facts.may_be_absent && facts.removed.is_none() {
        return Err("the file is absent".into());
    }
    let remembered = recorded.remembered.as_ref().filter(|_| remembers);
    let mut engine = moment.engine.clone();
    engine.clear_faults();
    let room = Room::new(image.clone(), engine, recorded.now, remembered, recorded.furniture);
    let mut report = room.look_until_rest();
    if let Some(content) = &facts.removed {
        if room.file().is_some() {
            return Err("I4: a removed file was made again".into());
        }
        room.disk.edit(Path::new(FILE), Edit::Note(content.clone()));
        report = room.look_until_rest();
    }
    if !(facts.may_be_absent && room.file().is_none()) {
        settled(&room, moment, &report)?;
    }
    lineage(&room, facts.logins)?;
    log_in(&room)
}

/// The vault holds the newest pair of one of the families, or it is in doubt and behaves so.
fn settled(room: &Room, moment: &Moment, report: &Report) -> Result<(), String> {
    let before = *moment.engine.counters();
    let told = || format!("{:?} ({:?}), {:?}", report.reason, report.error, report.detail);
    if moment.facts.noted && !room.file().is_some_and(|file| has_note(&file)) {
        return Err(format!("I4: the operator's member is lost: {}", told()));
    }
    if room.counters().reuses > before.reuses {
        return Err(format!("I5: a spent pair was presented: {}", told()));
    }
    let newest = holds_newest(room, &moment.facts.families);
    match report.error {
        None if newest => Ok(()),
        None => Err(format!("the vault's pair is not the newest: {}", told())),
        Some(Reason::InDoubt) if moment.facts.kept && !doubtful(moment) => {
            Err(format!("I7: in doubt, though the answer had been kept: {}", told()))
        }
        Some(Reason::InDoubt) => in_doubt(room, &before, newest),
        // The provider's own words, or its wait; the pair is still the newest.
        Some(Reason::RefreshTokenRevoked | Reason::ProviderUnavailable) if newest => Ok(()),
        Some(_) => Err(format!("it does not recover: {}", told())),
    }
}

/// The answer itself was a doubtful one.
fn doubtful(moment: &Moment) -> bool {
    let last = moment.engine.exchanges().next_back();
    last.is_some_and(|exchange| exchange.status >= 500 && exchange.fault.is_some())
}

fn holds_newest(room: &Room, families: &[u64]) -> bool {
    let Some(refresh) = room.grant().and_then(|grant| grant.refresh) else { return false };
    let inner = room.disk.lock();
    families.iter().any(|family| inner.engine.newest_refresh_token(*family) == Some(refresh.expose()))
}

/// Nothing is presented while the access token lives; near its end there is a definite answer.
fn in_doubt(room: &Room, before: &evergrant_standin::Counters, newest: bool) -> Result<(), String> {
    let Some(record) = room.record() else { return Err("in doubt without a record".into()) };
    let last_chance = record.expires_at - Duration::from_secs(LAST_CHANCE_SECS.min(LIFE_SECS / 5));
    if room.now() < last_chance {
        room.set_now(last_chance - Duration::from_secs(1));
        room.look(Look::Due);
        room.look(Look::Forced);
        if room.counters().exchanges > before.exchanges {
            return Err("I5: a pair in doubt was presented while its access token lived".into());
        }
    }
    room.set_now(record.expires_at + Duration::from_secs(600));
    let report = room.look_until_rest();
    match report.error {
        None if newest && report.generation != Some(record.generation) => Ok(()),
        Some(Reason::RefreshTokenRevoked) if !newest => Ok(()),
        None | Some(_) => Err(format!("L2: no definite end of a doubt: {report:?}")),
    }
}

/// I9: nothing but an outside edit begins a lineage.
fn lineage(room: &Room, logins: u64) -> Result<(), String> {
    let lineage = room.record().map_or(1, |record| record.lineage.0);
    if lineage > 1 + logins {
        return Err(format!("I9: lineage {lineage} after {logins} logins"));
    }
    Ok(())
}

/// L3: after a login all is well, and nothing lies about.
fn log_in(room: &Room) -> Result<(), String> {
    let (family, bytes) = room.log_in();
    room.disk.edit(Path::new(FILE), Edit::Login { bytes, family });
    room.look_until_rest();
    let report = room.look(Look::Forced);
    if !(report.ok && report.refreshed && holds_newest(room, &[family])) {
        return Err(format!("L3: not well after a login: {report:?}"));
    }
    let left = |path: &Path| {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        name.starts_with("swap.") || name.starts_with("back.") || name.ends_with("-check")
    };
    let image = room.disk.image();
    match image.names.keys().find(|path| left(path)) {
        Some(path) => Err(format!("{} lies about", path.display())),
        None => Ok(()),
    }
}
