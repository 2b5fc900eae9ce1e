//! `evergrant drill`: rehearses a failure, and says of each step what was expected and what happened (SPEC §10).

use std::process::ExitCode;

use evergrant_lab::drill::{self, Drill, DrillReport};

use crate::cli::DrillName;
use crate::output;

/// Runs one drill; fine only if all held.
pub(crate) async fn run(name: DrillName, json: bool) -> ExitCode {
    let drill = match name {
        DrillName::ForceRefresh => Drill::ForceRefresh,
        DrillName::Revoked => Drill::Revoked,
        DrillName::Silence => Drill::Silence,
        DrillName::Fallback => Drill::Fallback,
    };
    let report = match drill::run(drill, None).await {
        Ok(report) => report,
        Err(why) => return output::failed(format!("the drill could not be set up: {why}")),
    };
    if json {
        output::json(&report);
    } else {
        text(&report);
    }
    ExitCode::from(if report.ok { output::FINE } else { output::FAILED })
}

fn text(report: &DrillReport) {
    let dim = output::DIM;
    let name = report.drill.as_str();
    anstream::println!("drill {name}, against a stand-in provider; nothing of yours is touched");
    for (index, step) in report.steps.iter().enumerate() {
        let (style, word) = if step.ok { (output::GOOD, "ok  ") } else { (output::BAD, "FAIL") };
        anstream::println!("{style}{word}{style:#} {}. {}", index + 1, step.what);
        anstream::println!("       {dim}expected{dim:#} {}", step.expected);
        anstream::println!("       {dim}happened{dim:#} {}", step.happened);
    }
    let held = report.steps.iter().filter(|step| step.ok).count();
    let style = if report.ok { output::GOOD } else { output::BAD };
    let seconds = report.took_ms as f64 / 1e3;
    anstream::println!("{style}{held} of {} steps held{style:#}, in {seconds:.1} s", report.steps.len());
}
