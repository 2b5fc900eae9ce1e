//! Streams that are open and silent, for the memory that each takes.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::connection::connect;
use super::sse::{Events, streaming};
use super::{Gate, Target};

/// Opens so many streams one after the other and waits for the first event of each; they stay open until `gate`
/// lets go.
pub async fn hold(target: &Target, streams: usize, gate: &mut impl Gate) -> Result<Value> {
    let mut open = Vec::new();
    for number in 0..streams {
        let (mut reader, mut writer) = connect(target).await?;
        let request = streaming(target, "?hold", number);
        writer.write_all(request.as_bytes()).await.context("sending a request")?;
        let mut body = reader.head().await?.body;
        let mut events = Events::default();
        loop {
            reader.some_body(&mut body, |part| events.take(part))?;
            if !events.times.is_empty() {
                break;
            }
            ensure!(!body.is_over(), "a stream ended that should be held open");
            reader.read().await?;
        }
        open.push((reader, writer));
    }
    gate.ready()?;
    Ok(json!({"streams": open.len(), "errors": 0}))
}
