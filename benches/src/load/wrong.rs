//! Requests with keys that nobody knows, at a rate, while others are measured.

use std::cell::Cell;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use tokio::io::AsyncWriteExt as _;

use super::connection::connect;
use super::{Target, UNAUTHORIZED};
use crate::clock::{Ticker, now_ns};

/// They come over so many connections.
const CONNECTIONS: u64 = 16;

/// Asks `rate` times a second until it is dropped; counts the answers, all of which are 401.
pub(super) async fn ask(mut target: Target, rate: u64, refused: Rc<Cell<u64>>) -> Result<()> {
    target.keys = vec!["evg_nobody_knows_this_one_0000000000000000000".into()];
    let head = target.head("", 0) + "content-length: 0\r\n\r\n";
    let mut lines = Vec::new();
    for _ in 0..CONNECTIONS {
        let (mut reader, writer) = connect(&target).await?;
        reader.expect(UNAUTHORIZED);
        lines.push((reader, writer));
    }
    let period = 1_000_000_000 * CONNECTIONS / rate.max(1);
    let mut ticker = Ticker::new(now_ns() + period, period)?;
    let mut content = Vec::new();
    loop {
        ticker.ticks().await?;
        for (_, writer) in &mut lines {
            writer.write_all(head.as_bytes()).await.context("sending a wrong key")?;
        }
        for (reader, _) in &mut lines {
            reader.answer(&mut content).await.context("a wrong key")?;
            refused.set(refused.get() + 1);
        }
    }
}
