//! The access log: one JSON object a request. Threads hand over batches; one thread writes, so that a slow disk or
//! pipe stops nobody (SPEC §7).

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use evergrant_core::caller::KeyId;

use super::text;

/// A batch is handed over when it is as long as this, or a second old.
pub(super) const BATCH: usize = 32 * 1024;
/// Batches that may wait for the disk; more are dropped and counted.
const WAITING: usize = 128;
const REOPEN_LOOK: Duration = Duration::from_secs(1);
/// The writer rests so long behind each writing: a thread that hands over while it does has nobody to wake, which costs
/// more than the writing.
const REST: Duration = Duration::from_millis(20);

/// Where the access log goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output.
    #[default]
    Stdout,
    /// A file, which is appended to; `SIGHUP` opens it anew.
    File(PathBuf),
}

/// The log's end at the threads. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Log {
    batches: Option<SyncSender<Vec<u8>>>,
    reopen: Arc<AtomicBool>,
}

impl Log {
    /// Opens it and starts its writer, which ends when all ends at the threads are gone.
    pub(super) fn open(to: &AccessLog) -> io::Result<(Self, Option<JoinHandle<()>>)> {
        let reopen = Arc::new(AtomicBool::new(false));
        let (batches, waiting) = sync_channel(WAITING);
        let writer = match to {
            AccessLog::Off => return Ok((Self { batches: None, reopen }, None)),
            AccessLog::Stdout => spawn(move || write_stdout(&waiting))?,
            AccessLog::File(path) => {
                let (path, reopen) = (path.clone(), reopen.clone());
                let file = append_to(&path)?;
                spawn(move || write_file(&waiting, file, &path, &reopen))?
            }
        };
        Ok((Self { batches: Some(batches), reopen }, Some(writer)))
    }

    /// Whether anybody reads it.
    pub(super) fn is_on(&self) -> bool {
        self.batches.is_some()
    }

    /// Hands a batch over. Says whether it was taken.
    pub(super) fn hand_over(&self, batch: Vec<u8>) -> bool {
        match &self.batches {
            None => true,
            Some(batches) => match batches.try_send(batch) {
                Ok(()) => true,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
            },
        }
    }

    /// Opens the file anew: it was rotated.
    pub(super) fn reopen(&self) {
        self.reopen.store(true, Ordering::Relaxed);
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("access-log".into()).spawn(work)
}

fn append_to(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).mode(0o600).open(path)
}

fn write_stdout(waiting: &Receiver<Vec<u8>>) {
    while let Ok(batch) = waiting.recv() {
        let mut out = io::stdout().lock();
        let mut all = std::iter::once(batch).chain(waiting.try_iter());
        if let Err(error) = all.try_for_each(|batch| out.write_all(&batch)).and_then(|()| out.flush()) {
            tracing::warn!(%error, "the access log ends: standard output cannot be written");
            return;
        }
        drop(out);
        thread::sleep(REST);
    }
}

fn write_file(waiting: &Receiver<Vec<u8>>, mut file: File, path: &Path, reopen: &AtomicBool) {
    loop {
        let batch = match waiting.recv_timeout(REOPEN_LOOK) {
            Ok(batch) => Some(batch),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if reopen.swap(false, Ordering::Relaxed) {
            match append_to(path) {
                Ok(fresh) => file = fresh,
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "the access log is not opened anew")
                }
            }
        }
        let Some(batch) = batch else { continue };
        for batch in std::iter::once(batch).chain(waiting.try_iter()) {
            if let Err(error) = file.write_all(&batch) {
                tracing::warn!(%error, path = %path.display(), "lines of the access log are lost");
            }
        }
        thread::sleep(REST);
    }
}

/// One request, as it is logged.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) at: jiff::Timestamp,
    pub(super) request_id: &'a str,
    /// Its name, and the id of its key.
    pub(super) caller: &'a str,
    pub(super) key: Option<KeyId>,
    pub(super) chain: &'a str,
    pub(super) method: &'a str,
    pub(super) route: &'a str,
    pub(super) status: u16,
    pub(super) source: &'static str,
    /// As much of the secret that served as may be shown.
    pub(super) shown: &'a str,
    pub(super) reason: Option<&'static str>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) first_byte_us: u64,
    pub(super) took_us: u64,
    pub(super) overhead_us: u64,
}

impl Line<'_> {
    /// Appends it. All words but the caller's name are ours or plain ASCII: of what a client sent, only the
    /// request id is in it, and that cannot hold a quote.
    pub(super) fn write(&self, batch: &mut Vec<u8>) {
        batch.extend_from_slice(b"{\"at\":");
        seconds(batch, self.at);
        word(batch, "request_id", self.request_id);
        name(batch, "caller");
        // A vector takes whatever is written to it.
        let _ = serde_json::to_writer(&mut *batch, self.caller);
        if let Some(key) = self.key {
            word(batch, "key", key.text().as_str());
        }
        word(batch, "chain", self.chain);
        word(batch, "method", self.method);
        word(batch, "route", self.route);
        number(batch, "status", self.status.into());
        word(batch, "source", self.source);
        word(batch, "shown", self.shown);
        if let Some(reason) = self.reason {
            word(batch, "reason", reason);
        }
        number(batch, "bytes_in", self.bytes_in);
        number(batch, "bytes_out", self.bytes_out);
        number(batch, "first_byte_us", self.first_byte_us);
        number(batch, "took_us", self.took_us);
        number(batch, "overhead_us", self.overhead_us);
        batch.extend_from_slice(b"}\n");
    }
}

fn name(batch: &mut Vec<u8>, name: &str) {
    batch.extend_from_slice(b",\"");
    batch.extend_from_slice(name.as_bytes());
    batch.extend_from_slice(b"\":");
}

fn word(batch: &mut Vec<u8>, its_name: &str, word: &str) {
    name(batch, its_name);
    batch.push(b'"');
    batch.extend_from_slice(word.as_bytes());
    batch.push(b'"');
}

fn number(batch: &mut Vec<u8>, its_name: &str, number: u64) {
    name(batch, its_name);
    text::decimal(batch, number);
}

/// Seconds since the epoch with milliseconds: a date costs more than the rest of the line.
fn seconds(batch: &mut Vec<u8>, at: jiff::Timestamp) {
    let millis = u64::try_from(at.as_millisecond()).unwrap_or(0);
    text::decimal(batch, millis / 1000);
    batch.push(b'.');
    text::three(batch, millis);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_is_one_object_with_a_members_order_and_no_quote_of_a_callers() {
        let line = Line {
            at: jiff::Timestamp::from_millisecond(1_764_400_000_007).unwrap(),
            request_id: "evg_1",
            caller: "\"the\\ web\nshop\"",
            key: Some("key_ba7816bf8f01".parse().unwrap()),
            chain: "claude",
            method: "POST",
            route: "/v1/messages",
            status: 499,
            source: "oauth",
            shown: "sk-ant-oat01-test…",
            reason: Some("client_gone"),
            bytes_in: 0,
            bytes_out: u64::MAX,
            first_byte_us: 12,
            took_us: 3_456,
            overhead_us: 78,
        };
        let mut batch = Vec::new();
        line.write(&mut batch);
        let bare = Line { key: None, reason: None, ..line };
        bare.write(&mut batch);
        let text = String::from_utf8(batch).unwrap();
        let mut lines = text.lines();
        let read = |line: Option<&str>| serde_json::from_str::<serde_json::Value>(line.unwrap()).unwrap();
        let mut expected = json!({
            "at": 1_764_400_000.007, "request_id": "evg_1", "caller": "\"the\\ web\nshop\"",
            "key": "key_ba7816bf8f01", "chain": "claude", "method": "POST", "route": "/v1/messages",
            "status": 499, "source": "oauth", "shown": "sk-ant-oat01-test…", "reason": "client_gone",
            "bytes_in": 0, "bytes_out": u64::MAX, "first_byte_us": 12, "took_us": 3_456, "overhead_us": 78,
        });
        assert_eq!(read(lines.next()), expected);
        for absent in ["key", "reason"] {
            expected.as_object_mut().unwrap().remove(absent);
        }
        assert_eq!(read(lines.next()), expected);
        assert!(text.starts_with(r#"{"at":1764400000.007,"request_id":"evg_1","caller":"#), "{text}");
    }
}
