//! What the agent's commands print.

use std::process::ExitCode;

use evergrant_agent::absence;
use evergrant_agent::doctor::{Check, Verdict};
use evergrant_agent::round::{Agent, Report};
use evergrant_agent::service::State;
use evergrant_core::alert::span;
use evergrant_core::push::PushKind;
use evergrant_core::push::agent::Memory;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::output::{self, BAD, DIM, GOOD, WARN};

fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", span(now.duration_since(at).as_secs()))
}

/// Of one round for each chain. `given`: what was pushed came from standard input.
pub(super) fn reports(reports: &[Report], given: bool, json: bool) -> ExitCode {
    let ok = reports.iter().all(|report| report.ok);
    if json {
        output::json(&json!({ "ok": ok, "chains": reports }));
        return code(ok);
    }
    for report in reports {
        let (chain, style) = (&report.chain, if report.ok { GOOD } else { BAD });
        let word = match (report.sent, report.ok) {
            (None, _) => "not sent",
            (Some(PushKind::Push), true) => "pushed",
            (Some(PushKind::Beat), true) => "beat",
            (Some(_), false) => "failed",
        };
        anstream::println!(
            "{chain}  {style}{word}{style:#}  {} ({})",
            report.reason.sentence(),
            report.reason
        );
        if let Some(detail) = &report.detail {
            anstream::println!("  {detail}");
        }
        if !given {
            let entry = report.entry.as_deref().unwrap_or("no login on this workstation");
            let grant =
                report.fingerprint.map(|fingerprint| format!(", grant {fingerprint}")).unwrap_or_default();
            anstream::println!("  {DIM}login{DIM:#} {entry}{grant}");
        }
        if let Some(next) = next(report, given) {
            anstream::println!("  {DIM}next{DIM:#} {next}");
        }
    }
    code(ok)
}

fn next(report: &Report, given: bool) -> Option<&'static str> {
    match (report.ok, report.sent) {
        (true, _) => None,
        (false, None) => Some("log in with the client in the chain's config folder"),
        (false, Some(_)) if report.pending && !given => Some(
            "a running agent tries it again every minute; evergrant agent doctor says what is in the way",
        ),
        (false, Some(_)) => Some("evergrant agent doctor"),
    }
}

/// What the agent sees and remembers.
pub(super) fn status(
    agent: &Agent,
    service: Result<State, String>,
    now: Timestamp,
    json: bool,
) -> Result<ExitCode, String> {
    let say = |error: evergrant_agent::AgentError| error.to_string();
    let absence = absence::announced(agent.folder(), now).map_err(say)?;
    let running = agent.folder().is_run().map_err(say)?;
    let mut ok = running;
    let mut chains = Vec::new();
    for chain in &agent.settings().chains {
        let memory = agent.folder().load(&chain.name).map_err(say)?;
        let found = chain.entry.look();
        ok &= memory.streak.is_none() && memory.last_contact.is_some();
        chains.push((chain, memory, found));
    }
    let service_word = service.as_ref().map_or("unknown", |state| state.as_str());
    if json {
        let chains: Vec<Value> = chains
            .iter()
            .map(|(chain, memory, found)| {
                json!({
                    "chain": chain.name,
                    "entry": found.sight.entry,
                    "fingerprint": found.sight.grant(),
                    "modified_at": found.sight.modified_at,
                    "fault": found.fault,
                    "pending": memory.has_pending(&found.sight),
                    "reason": memory.why_no_push(&found.sight).0,
                    "memory": memory,
                })
            })
            .collect();
        output::json(&json!({
            "ok": ok, "running": running, "service": service_word, "server": agent.settings().server.as_str(),
            "absence": absence, "chains": chains,
        }));
        return Ok(code(ok));
    }
    let style = if running { GOOD } else { BAD };
    let word = if running { "runs" } else { "does not run" };
    anstream::println!(
        "agent {style}{word}{style:#}  service {service_word}  server {}",
        agent.settings().server
    );
    match (&service, running) {
        (_, true) => {}
        (Ok(State::Absent), false) => anstream::println!("  {DIM}next{DIM:#} evergrant agent install"),
        (Ok(State::Running | State::Stopped), false) => {
            anstream::println!("  {DIM}next{DIM:#} evergrant agent logs")
        }
        (Err(why), false) => anstream::println!("  {why}"),
    }
    if let Some(absence) = absence {
        let left = span(absence.until.duration_since(now).as_secs());
        anstream::println!("  {WARN}paused{WARN:#} for {left} more: {}", absence.reason);
    }
    for (chain, memory, found) in &chains {
        let entry = found.sight.entry.as_deref().unwrap_or("no login on this workstation");
        let grant =
            found.sight.grant().map(|fingerprint| format!(", grant {fingerprint}")).unwrap_or_default();
        anstream::println!("{}  {entry}{grant}", chain.name);
        if let Some(fault) = &found.fault {
            anstream::println!("  {fault}");
        }
        let (reason, refused) = memory.why_no_push(&found.sight);
        if memory.has_pending(&found.sight) {
            anstream::println!("  {WARN}waits to be pushed{WARN:#}");
        } else {
            let refused = refused.map(|refused| format!(" {}", refused.sentence())).unwrap_or_default();
            anstream::println!("  {}{refused}", reason.sentence());
        }
        contact(memory, now);
    }
    Ok(code(ok))
}

fn contact(memory: &Memory, now: Timestamp) {
    match memory.last_contact {
        Some(at) => {
            let status = memory.status.as_deref().unwrap_or("unknown");
            anstream::println!("  last contact {}; the server says: {status}", ago(at, now));
        }
        None => anstream::println!("  {BAD}the server was never reached{BAD:#}"),
    }
    if let Some(streak) = memory.streak {
        let (count, first) = (streak.count, ago(streak.first, now));
        anstream::println!(
            "  {BAD}{count} failures in a row{BAD:#} since {first}: {}",
            streak.reason.sentence()
        );
        anstream::println!("  {DIM}next{DIM:#} evergrant agent doctor");
    }
    if let Some(since) = memory.blind_since {
        anstream::println!("  {WARN}the keychain is locked{WARN:#} since {}", ago(since, now));
    }
}

/// One line a check, and what to do next.
pub(super) fn doctor(checks: &[Check], json: bool) -> ExitCode {
    let ok = checks.iter().all(|check| check.verdict != Verdict::Bad);
    if json {
        output::json(&json!({ "ok": ok, "checks": checks }));
        return code(ok);
    }
    for check in checks {
        let (word, style) = match check.verdict {
            Verdict::Ok => ("ok", GOOD),
            Verdict::Warning => ("look", WARN),
            Verdict::Bad => ("bad", BAD),
            Verdict::Skipped => ("-", DIM),
        };
        anstream::println!("{style}{word:<4}{style:#} {}: {}", check.name, check.found);
        if let Some(next) = &check.next {
            anstream::println!("     {DIM}next{DIM:#} {next}");
        }
    }
    code(ok)
}

fn code(ok: bool) -> ExitCode {
    ExitCode::from(if ok { output::FINE } else { output::FAILED })
}
