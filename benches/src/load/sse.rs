//! Streams of events: the time to the first, and how long each was under way.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::LocalSet;

use super::connection::{Reader, connect};
use super::{Faults, Gate, Target, Times};
use crate::clock::now_ns;
use crate::upstream::{BEFORE_TIME, TIME_DIGITS};

/// Events that each stream gets before the measurement.
const WARM_UP_EVENTS: u64 = 3;

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Sse {
    /// So many streams at a time.
    pub streams: usize,
    /// So many events each.
    pub events: u64,
    /// Microseconds between two events of a stream.
    pub gap_us: u64,
}

#[derive(Debug)]
struct Tally {
    first: Times,
    delay: Times,
    faults: Faults,
}

impl Tally {
    fn new() -> Result<Self> {
        Ok(Self { first: Times::new()?, delay: Times::new()?, faults: Faults::default() })
    }
}

#[derive(Debug)]
struct Line {
    reader: Reader,
    writer: OwnedWriteHalf,
    number: usize,
}

/// Reads streams; the result is one object.
pub async fn sse(target: &Target, asked: Sse, gate: &mut impl Gate) -> Result<Value> {
    LocalSet::new().run_until(measure(target, asked, gate)).await
}

async fn measure(target: &Target, asked: Sse, gate: &mut impl Gate) -> Result<Value> {
    let mut lines = Vec::new();
    for number in 0..asked.streams {
        let (reader, writer) = connect(target).await?;
        lines.push(Line { reader, writer, number });
    }
    let warm_up = Sse { events: WARM_UP_EVENTS, ..asked };
    let warm = phase(target, &mut lines, warm_up).await?;
    let started = now_ns();
    let (started, tally) = if warm.faults.count > 0 {
        (started, warm)
    } else {
        gate.ready()?;
        (now_ns(), phase(target, &mut lines, asked).await?)
    };
    let seconds = (now_ns() - started) as f64 / 1e9;
    let events = tally.delay.0.len();
    Ok(json!({
        "streams": tally.first.0.len(),
        "events": events,
        "events_per_second": if seconds > 0.0 { events as f64 / seconds } else { 0.0 },
        "errors": tally.faults.count,
        "error": tally.faults.first,
        "seconds": seconds,
        "first_p50_us": tally.first.quantile_us(0.5),
        "first_p99_us": tally.first.quantile_us(0.99),
        "delay_p50_us": tally.delay.quantile_us(0.5),
        "delay_p99_us": tally.delay.quantile_us(0.99),
    }))
}

async fn phase(target: &Target, lines: &mut Vec<Line>, asked: Sse) -> Result<Tally> {
    let tally = Rc::new(RefCell::new(Tally::new()?));
    let query = format!("?events={}&gap_us={}", asked.events, asked.gap_us);
    let tasks: Vec<_> = lines
        .drain(..)
        .map(|mut line| {
            let tally = tally.clone();
            let request = streaming(target, &query, line.number);
            tokio::task::spawn_local(async move {
                if let Err(error) = stream(&mut line, &request, asked.events, &tally).await {
                    tally.borrow_mut().faults.add(&error);
                }
                line
            })
        })
        .collect();
    for task in tasks {
        lines.push(task.await.context("a stream's task")?);
    }
    let tally = Rc::into_inner(tally).context("a task still counts")?;
    Ok(tally.into_inner())
}

/// A small request for a stream.
pub(super) fn streaming(target: &Target, query: &str, number: usize) -> String {
    let body = "{\"stream\":true}";
    format!("{}content-length: {}\r\n\r\n{body}", target.head(query, number), body.len())
}

async fn stream(line: &mut Line, request: &str, events: u64, tally: &RefCell<Tally>) -> Result<()> {
    let sent = now_ns();
    line.writer.write_all(request.as_bytes()).await.context("sending a request")?;
    let mut body = line.reader.head().await?.body;
    let mut seen = Events::default();
    loop {
        let now = now_ns();
        line.reader.some_body(&mut body, |part| seen.take(part))?;
        seen.count_into(&mut tally.borrow_mut(), sent, now);
        if body.is_over() {
            break;
        }
        line.reader.read().await?;
    }
    ensure!(seen.part.is_empty(), "the stream ended within an event");
    ensure!(seen.count == events, "{} events came of {events}", seen.count);
    Ok(())
}

/// Cuts a stream into events.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// Of an event that has not ended.
    part: Vec<u8>,
    /// When each was written that has ended; 0 for one without a time.
    pub(super) times: Vec<u64>,
    count: u64,
}

impl Events {
    fn count_into(&mut self, tally: &mut Tally, sent: u64, now: u64) {
        for written in self.times.drain(..) {
            if self.count == 0 {
                tally.first.record(now - sent);
            }
            self.count += 1;
            tally.delay.record(now.saturating_sub(written));
        }
    }

    pub(super) fn take(&mut self, content: &[u8]) {
        self.part.extend(content);
        let mut start = 0;
        while let Some(rest) = self.part.get(start..)
            && let Some(end) = rest.windows(2).position(|two| two == b"\n\n")
        {
            self.times.push(rest.get(..end).and_then(time).unwrap_or(0));
            start += end + 2;
        }
        self.part.drain(..start);
    }
}

fn time(event: &[u8]) -> Option<u64> {
    let digits = event.strip_prefix(BEFORE_TIME.as_bytes())?.get(..TIME_DIGITS)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::Events;
    use crate::upstream::BEFORE_TIME;

    #[test]
    fn events_are_found_however_they_are_cut() {
        let stream =
            format!("{BEFORE_TIME}00000000000000000042\"}}\n\n{BEFORE_TIME}00000000000000000043\"}}\n\n");
        for step in 1..stream.len() {
            let mut events = Events::default();
            for piece in stream.as_bytes().chunks(step) {
                events.take(piece);
            }
            assert_eq!(events.times, [42, 43]);
            assert!(events.part.is_empty());
        }
    }
}
