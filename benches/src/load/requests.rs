//! Requests and answers: as fast as the answers come (closed loop), or at fixed instants (open loop), where the time
//! of each is measured from its instant, so that waiting for a connection counts.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::connection::{Reader, connect};
use super::{Faults, Gate, Target, Times};
use crate::clock::{Ticker, now_ns};
use crate::framing::in_chunks;
use crate::upstream::answer;

/// Bodies are sent from memory up to here; what is longer repeats its last block.
const IN_MEMORY: usize = 1024 * 1024;
static BLOCK: [u8; 64 * 1024] = [b'x'; 64 * 1024];
/// The least that is sent before the measurement begins.
const WARM_UP: Duration = Duration::from_millis(300);
/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// When a request is sent.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// When the answer before it has come.
    Closed,
    /// At fixed instants, so many a second over all connections.
    Open(u64),
}

/// How much is sent.
#[derive(Debug, Clone, Copy)]
pub enum Amount {
    /// For so long, after a warm-up.
    For(Duration),
    /// So many on each connection, without a warm-up.
    Each(u64),
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Requests {
    /// When.
    pub pace: Pace,
    /// How much.
    pub amount: Amount,
    /// Over so many connections.
    pub connections: usize,
    /// So many bytes of body each.
    pub body: usize,
    /// Bodies in chunks, both ways.
    pub chunked: bool,
    /// Besides, so many requests a second with a key that nobody knows.
    pub wrong: Option<u64>,
}

/// One request as it is sent.
#[derive(Debug)]
struct Request {
    bytes: Vec<u8>,
    /// So many bytes of the body are sent behind those.
    behind: usize,
}

impl Request {
    fn new(target: &Target, asked: &Requests, number: usize) -> Result<Self> {
        let mut bytes = target.head(if asked.chunked { "?chunked" } else { "" }, number).into_bytes();
        let held = asked.body.min(IN_MEMORY);
        let body = content(held);
        if asked.chunked {
            ensure!(held == asked.body, "a body in chunks is at most {IN_MEMORY} bytes long");
            bytes.extend(b"transfer-encoding: chunked\r\n\r\n");
            bytes.extend(in_chunks(&body, (held / 2).max(1)));
        } else {
            bytes.extend(format!("content-length: {}\r\n\r\n", asked.body).into_bytes());
            bytes.extend(body);
        }
        Ok(Self { bytes, behind: asked.body - held })
    }

    async fn send(&self, writer: &mut OwnedWriteHalf) -> Result<()> {
        writer.write_all(&self.bytes).await.context("sending a request")?;
        let mut left = self.behind;
        while left > 0 {
            let block = BLOCK.get(..left.min(BLOCK.len())).unwrap_or_default();
            writer.write_all(block).await.context("sending a body")?;
            left -= block.len();
        }
        Ok(())
    }
}

/// A request for a message, padded to a length; where that is too short, nothing but padding.
fn content(length: usize) -> Vec<u8> {
    let before = r#"{"model":"claude-bench","max_tokens":16,"messages":[{"role":"user","content":""#;
    let after = r#""}]}"#;
    match length.checked_sub(before.len() + after.len()) {
        Some(padding) => [before, &"x".repeat(padding), after].concat().into_bytes(),
        None => vec![b'x'; length],
    }
}

/// What one phase gave.
#[derive(Debug)]
struct Tally {
    times: Times,
    faults: Faults,
    last_ns: u64,
}

impl Tally {
    fn new() -> Result<Self> {
        Ok(Self { times: Times::new()?, faults: Faults::default(), last_ns: 0 })
    }

    fn result(&self, started_ns: u64, unsent: usize) -> Value {
        let seconds = self.last_ns.saturating_sub(started_ns) as f64 / 1e9;
        let requests = self.times.0.len();
        json!({
            "requests": requests,
            "errors": self.faults.count,
            "error": self.faults.first,
            "unsent": unsent,
            "seconds": seconds,
            "rps": if seconds > 0.0 { requests as f64 / seconds } else { 0.0 },
            "p50_us": self.times.quantile_us(0.5),
            "p99_us": self.times.quantile_us(0.99),
        })
    }
}

/// Asks as told; the result is one object.
pub async fn requests(target: &Target, asked: Requests, gate: &mut impl Gate) -> Result<Value> {
    let measured = async {
        let refused = Rc::new(Cell::new(0));
        let wrong = asked.wrong.map(|rate| {
            let (target, refused) = (target.clone(), refused.clone());
            tokio::task::spawn_local(async move { super::wrong::ask(target, rate, refused).await })
        });
        let mut result = match asked.pace {
            Pace::Closed => closed(target, asked, gate).await?,
            Pace::Open(rate) => open(target, asked, rate, gate).await?,
        };
        if let Some(wrong) = wrong {
            // It never ends but by an error.
            if wrong.is_finished() {
                wrong.await.context("the task of the wrong keys")??;
            }
            result["wrong"] = refused.get().into();
        }
        Ok(result)
    };
    LocalSet::new().run_until(measured).await
}

/// Reads one answer and compares it.
async fn check(reader: &mut Reader, content: &mut Vec<u8>, right: &[u8], body: usize) -> Result<()> {
    let received = reader.answer(content).await?;
    ensure!(content == right, "an answer has {} bytes that are not those of the upstream", content.len());
    ensure!(received == Some(body as u64), "of {body} bytes sent {received:?} arrived");
    Ok(())
}

/// A connection of the closed loop: what its phases share.
#[derive(Debug)]
struct Line {
    reader: Reader,
    writer: OwnedWriteHalf,
    request: Request,
    body: usize,
}

async fn closed(target: &Target, asked: Requests, gate: &mut impl Gate) -> Result<Value> {
    let mut lines = Vec::new();
    for number in 0..asked.connections {
        let (reader, writer) = connect(target).await?;
        let request = Request::new(target, &asked, number)?;
        lines.push(Line { reader, writer, request, body: asked.body });
    }
    if matches!(asked.amount, Amount::For(_)) {
        let (_, warm) = phase(&mut lines, Amount::For(WARM_UP)).await?;
        if warm.faults.count > 0 {
            return Ok(warm.result(0, 0));
        }
    }
    gate.ready()?;
    let (started, tally) = phase(&mut lines, asked.amount).await?;
    Ok(tally.result(started, 0))
}

async fn phase(lines: &mut Vec<Line>, amount: Amount) -> Result<(u64, Tally)> {
    let tally = Rc::new(RefCell::new(Tally::new()?));
    let started = now_ns();
    let (end, count) = match amount {
        Amount::For(time) => (started + u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2), u64::MAX),
        Amount::Each(count) => (u64::MAX, count),
    };
    let tasks: Vec<_> = lines
        .drain(..)
        .map(|mut line| {
            let tally = tally.clone();
            tokio::task::spawn_local(async move {
                if let Err(error) = ask(&mut line, end, count, &tally).await {
                    tally.borrow_mut().faults.add(&error);
                }
                line
            })
        })
        .collect();
    for task in tasks {
        lines.push(task.await.context("a connection's task")?);
    }
    let tally = Rc::into_inner(tally).context("a task still counts")?;
    Ok((started, tally.into_inner()))
}

async fn ask(line: &mut Line, end: u64, count: u64, tally: &RefCell<Tally>) -> Result<()> {
    let right = answer();
    let mut content = Vec::with_capacity(right.len());
    for _ in 0..count {
        let sent = now_ns();
        if sent >= end {
            break;
        }
        line.request.send(&mut line.writer).await?;
        check(&mut line.reader, &mut content, &right, line.body).await?;
        let now = now_ns();
        let mut tally = tally.borrow_mut();
        tally.times.record(now - sent);
        tally.last_ns = now;
    }
    Ok(())
}

/// What dispatcher and connections of the open loop share.
#[derive(Debug)]
struct Desk {
    writers: Vec<OwnedWriteHalf>,
    requests: Vec<Request>,
    /// When the request that is under way on that connection was due.
    due: Vec<Cell<u64>>,
    idle: RefCell<Vec<usize>>,
    /// Due, and no connection was free.
    waiting: RefCell<VecDeque<u64>>,
    tally: RefCell<Tally>,
    in_flight: Cell<usize>,
    all_back: Notify,
}

impl Desk {
    fn send(&self, number: usize, due: u64) -> Result<()> {
        let (Some(writer), Some(request)) = (self.writers.get(number), self.requests.get(number)) else {
            return Ok(());
        };
        let sent = writer.try_write(&request.bytes).context("sending a request")?;
        ensure!(sent == request.bytes.len(), "a request did not fit into the socket");
        if let Some(cell) = self.due.get(number) {
            cell.set(due);
        }
        self.in_flight.set(self.in_flight.get() + 1);
        Ok(())
    }

    /// An answer is there: the connection takes what waits, or rests.
    fn back(&self, number: usize) -> Result<()> {
        let now = now_ns();
        let due = self.due.get(number).map_or(now, Cell::get);
        {
            let mut tally = self.tally.borrow_mut();
            tally.times.record(now.saturating_sub(due));
            tally.last_ns = now;
        }
        self.in_flight.set(self.in_flight.get() - 1);
        let next = self.waiting.borrow_mut().pop_front();
        match next {
            Some(due) => self.send(number, due)?,
            None => self.idle.borrow_mut().push(number),
        }
        if self.in_flight.get() == 0 {
            self.all_back.notify_one();
        }
        Ok(())
    }

    /// Sends for so long, then drops what still waits and says how many those were.
    async fn run(&self, rate: u64, time: Duration) -> Result<(u64, usize)> {
        let period = 1_000_000_000 / rate.max(1);
        let count = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX) / period.max(1);
        let started = now_ns() + period;
        let mut ticker = Ticker::new(started, period)?;
        let mut ticked = 0;
        while ticked < count && self.tally.borrow().faults.count == 0 {
            for _ in 0..ticker.ticks().await?.min(count - ticked) {
                let due = started + ticked * period;
                ticked += 1;
                let idle = self.idle.borrow_mut().pop();
                match idle {
                    Some(number) => self.send(number, due)?,
                    None => self.waiting.borrow_mut().push_back(due),
                }
            }
        }
        let unsent = std::mem::take(&mut *self.waiting.borrow_mut()).len();
        while self.in_flight.get() > 0 && self.tally.borrow().faults.count == 0 {
            timeout(PATIENCE, self.all_back.notified()).await.context("an answer never came")?;
        }
        Ok((started, unsent))
    }
}

async fn open(target: &Target, asked: Requests, rate: u64, gate: &mut impl Gate) -> Result<Value> {
    let Amount::For(time) = asked.amount else {
        anyhow::bail!("an open loop runs for a time, not for a number of requests");
    };
    ensure!(asked.body <= 32 * 1024, "an open loop sends bodies of at most 32 KB");
    let (mut readers, mut writers, mut requests) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..asked.connections {
        let (reader, writer) = connect(target).await?;
        readers.push(reader);
        writers.push(writer);
        requests.push(Request::new(target, &asked, number)?);
    }
    let desk = Rc::new(Desk {
        writers,
        requests,
        due: vec![Cell::new(0); asked.connections],
        idle: RefCell::new((0..asked.connections).collect()),
        waiting: RefCell::default(),
        tally: RefCell::new(Tally::new()?),
        in_flight: Cell::new(0),
        all_back: Notify::new(),
    });
    for (number, mut reader) in readers.into_iter().enumerate() {
        let desk = desk.clone();
        tokio::task::spawn_local(async move {
            let right = answer();
            let mut content = Vec::with_capacity(right.len());
            let body = asked.body;
            let error = loop {
                let done = check(&mut reader, &mut content, &right, body).await;
                if let Err(error) = done.and_then(|()| desk.back(number)) {
                    break error;
                }
            };
            desk.tally.borrow_mut().faults.add(&error);
            desk.all_back.notify_one();
        });
    }
    desk.run(rate, WARM_UP).await?;
    if desk.tally.borrow().faults.count == 0 {
        desk.tally.replace(Tally::new()?);
        gate.ready()?;
    }
    let (started, unsent) = desk.run(rate, time).await?;
    let result = desk.tally.borrow().result(started, unsent);
    Ok(result)
}
