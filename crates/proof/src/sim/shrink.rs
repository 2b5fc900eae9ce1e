//! Shortens the steps of a run that violates something until only what matters is left (delta debugging): in
//! chunks, then one by one, then each step's duration.

use std::time::Duration;

use super::lie::Lie;
use super::run_steps;
use super::schedule::{Setting, Step, What};

/// So many runs are tried at most.
const MOST_RUNS: usize = 600;

/// The shortest list of steps found whose run violates the same invariant as that of `steps`.
pub fn shrink(setting: Setting, steps: &[Step], lie: Option<Lie>) -> Vec<Step> {
    let Some(violation) = run_steps(setting, steps, lie).violation else {
        return steps.to_vec();
    };
    let mut runs = 0;
    let mut violates = |steps: &[Step]| {
        runs += 1;
        let found = (runs <= MOST_RUNS).then(|| run_steps(setting, steps, lie).violation).flatten();
        found.is_some_and(|found| found.invariant == violation.invariant)
    };
    let mut steps = steps.to_vec();
    let mut chunk = steps.len().div_ceil(2);
    while chunk > 0 {
        drop_chunks(&mut steps, chunk, &mut violates);
        chunk /= 2;
    }
    shorten(&mut steps, &mut violates);
    drop_chunks(&mut steps, 1, &mut violates);
    steps
}

fn drop_chunks(steps: &mut Vec<Step>, chunk: usize, violates: &mut impl FnMut(&[Step]) -> bool) {
    // From the end: what comes last depends on what came before, and not the other way round.
    let mut end = steps.len();
    while end > 0 {
        let begin = end.saturating_sub(chunk);
        let mut fewer = steps.clone();
        fewer.drain(begin..end);
        if violates(&fewer) {
            *steps = fewer;
        }
        end = begin;
    }
}

fn shorten(steps: &mut [Step], violates: &mut impl FnMut(&[Step]) -> bool) {
    for index in 0..steps.len() {
        let least = if steps[index].what == What::Calm { steps[index].then } else { Duration::ZERO };
        for shorter in [least, steps[index].then / 16, steps[index].then / 2] {
            let before = std::mem::replace(&mut steps[index].then, shorter);
            if before <= shorter || !violates(steps) {
                steps[index].then = before;
            } else {
                break;
            }
        }
    }
}
