//! What people read: text, with colour on a terminal only.

use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use evergrant_core::Reason;
pub(crate) use evergrant_core::alert::span;
use evergrant_core::chain::Record;
use evergrant_core::health::login_ends_soon_at;
use evergrant_core::keeper::Report;
use jiff::Timestamp;
use serde::Serialize;

use crate::config::{Fault, Severity};

pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(crate) const WARN: Style = AnsiColor::Yellow.on_default();
pub(crate) const DIM: Style = Style::new().dimmed();

/// Nothing went wrong.
pub(crate) const FINE: u8 = 0;
/// It failed.
pub(crate) const FAILED: u8 = 1;
/// The command line or the configuration is refused: trying again does not help.
pub(crate) const USAGE: u8 = 2;
/// A chain needs somebody now.
pub(crate) const NEEDS_SOMEBODY: u8 = 3;

/// Says why it failed, on standard error.
pub(crate) fn failed(why: impl std::fmt::Display) -> ExitCode {
    anstream::eprintln!("{BAD}error:{BAD:#} {why}");
    ExitCode::from(FAILED)
}

/// A warning, on standard error.
pub(crate) fn warn(what: impl std::fmt::Display) {
    anstream::eprintln!("{WARN}warning:{WARN:#} {what}");
}

/// Faults of the configuration, on standard error.
pub(crate) fn faults(faults: &[Fault]) {
    for fault in faults {
        let style = match fault.severity {
            Severity::Error => BAD,
            Severity::Warning => WARN,
        };
        anstream::eprintln!("{style}{fault}{style:#}");
    }
}

/// A value as JSON, on standard output.
pub(crate) fn json(value: &impl Serialize) {
    let text =
        serde_json::to_string_pretty(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"));
    anstream::println!("{text}");
}

/// A report in one or two lines.
pub(crate) fn report(report: &Report, now: Timestamp) {
    let style = match (report.error, report.token_valid) {
        (None, true) => GOOD,
        (Some(_), true) => WARN,
        (_, false) => BAD,
    };
    let word = report.error.unwrap_or(report.reason);
    anstream::println!("{}  {style}{word}{style:#}  {}", report.chain, word.sentence());
    if let (Some(lineage), Some(generation)) = (report.lineage, report.generation) {
        let token = token_line(report, now);
        anstream::println!("  {DIM}grant{DIM:#} {lineage}, generation {generation}; {token}");
    }
    if let Some(detail) = &report.detail {
        anstream::println!("  {detail}");
    }
    if let Some(action) = report.error.and_then(|error| action(error, report)) {
        anstream::println!("  {DIM}next:{DIM:#} {action}");
    }
}

fn token_line(report: &Report, now: Timestamp) -> String {
    let until = |at: Timestamp| span(at.duration_since(now).as_secs());
    let mut line = match (report.expires_at, report.token_valid, report.token_present) {
        (_, _, false) => return "no access token".into(),
        (Some(at), true, true) => format!("access token valid for {}", until(at)),
        (Some(at), false, true) if at <= now => {
            format!("access token ended {} ago", span(now.duration_since(at).as_secs()))
        }
        (_, false, true) => "access token refused by the API".into(),
        (None, true, true) => "access token valid".into(),
    };
    match report.renew_at {
        Some(at) if at > now => line.push_str(&format!(", renewed in {}", until(at))),
        Some(_) => line.push_str(", renewal due"),
        None => line.push_str(", nothing to renew"),
    }
    line
}

/// What to do about an error, as a command where there is one.
fn action(error: Reason, report: &Report) -> Option<String> {
    let chain = &report.chain;
    let needs_login =
        [Reason::RefreshTokenRevoked, Reason::GrantExpired, Reason::GrantSpent, Reason::TokenAbsent];
    if needs_login.contains(&error) {
        return Some(format!("log in again, then: evergrant import FILE --chain {chain} --move"));
    }
    let actions = [
        (
            Reason::InDoubt,
            "nothing at once; log in again before the access token ends, to be safe".to_owned(),
        ),
        (Reason::AuthFileMalformed, format!("repair the file, or: evergrant import FILE --chain {chain}")),
        (
            Reason::Quarantined,
            format!(
                "start every server that ran before the database was restored; else log in again, then: evergrant \
                 import FILE --chain {chain} --move; or, where its pair was never renewed since the backup: evergrant \
                 refresh --chain {chain} --force --accept-stale"
            ),
        ),
        (Reason::ClientRejected, "evergrant config check".to_owned()),
        (Reason::TermsNotAccepted, "evergrant config check".to_owned()),
        (Reason::IdentityTokenUnusable, "see that this workload's platform writes its JWT there".to_owned()),
        (Reason::ApiKeyUnusable, "put the API key into the file, and nothing else".to_owned()),
        (Reason::ApiKeyRefused, "put another API key into the file; it is taken at once".to_owned()),
    ];
    actions.into_iter().find(|(reason, _)| *reason == error).map(|(_, action)| action)
}

/// The warning that a record deserves besides its error.
pub(crate) fn warnings(record: &Record, now: Timestamp) -> Vec<String> {
    let mut warnings = Vec::new();
    if record.second_writer(now) {
        warnings.push(Reason::SecondWriter.sentence().to_owned());
    }
    if let Some(end) = record.grant_expires_at {
        let left = end.duration_since(now).as_secs();
        if left <= 0 {
            warnings.push(format!("the grant itself ended {} ago; log in again", span(-left)));
        } else if login_ends_soon_at(record).is_some_and(|at| now > at) {
            warnings.push(format!("the grant itself ends in {}; log in again before that", span(left)));
        }
    }
    if let Some(failures) = record.failures {
        let (first, next) = (now.duration_since(failures.since), failures.not_before.duration_since(now));
        let next = if next.is_positive() { format!("in {}", span(next.as_secs())) } else { "now".to_owned() };
        let (count, reason) = (failures.count, failures.reason);
        let ago = span(first.as_secs());
        warnings.push(format!(
            "failed attempts to renew: {count}, the first {ago} ago ({reason}); the next {next}"
        ));
    }
    warnings
}
