//! The access log: one JSON object a request. Threads hand over batches; one thread writes, so that a slow disk or
//! pipe stops nobody (SPEC §7).

use std::fmt::Write as _;
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

/// A batch is handed over when it is as long as this, or a second old.
pub(super) const BATCH: usize = 32 * 1024;
/// Batches that may wait for the disk; more are dropped and counted.
const WAITING: usize = 128;
const REOPEN_LOOK: Duration = Duration::from_secs(1);

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
        if let Err(error) = out.write_all(&batch).and_then(|()| out.flush()) {
            tracing::warn!(%error, "the access log ends: standard output cannot be written");
            return;
        }
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
        if let Some(batch) = batch
            && let Err(error) = file.write_all(&batch)
        {
            tracing::warn!(%error, path = %path.display(), "lines of the access log are lost");
        }
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
        let mut text = Text(batch);
        let Self { at, request_id, chain, method, route, status, source, shown, .. } = self;
        let _ = write!(text, r#"{{"at":{},"request_id":"{request_id}","caller":"#, Seconds(*at));
        let _ = serde_json::to_writer(&mut *text.0, self.caller);
        if let Some(key) = self.key {
            let _ = write!(text, r#","key":"{key}""#);
        }
        let _ = write!(
            text,
            r#","chain":"{chain}","method":"{method}","route":"{route}","status":{status},"source":"{source}","shown":"{shown}","#
        );
        if let Some(reason) = self.reason {
            let _ = write!(text, r#""reason":"{reason}","#);
        }
        let Self { bytes_in, bytes_out, first_byte_us, took_us, overhead_us, .. } = self;
        let _ = writeln!(
            text,
            r#""bytes_in":{bytes_in},"bytes_out":{bytes_out},"first_byte_us":{first_byte_us},"took_us":{took_us},"overhead_us":{overhead_us}}}"#
        );
    }
}

struct Text<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Seconds since the epoch with milliseconds: a date costs more than the rest of the line.
struct Seconds(jiff::Timestamp);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millis = self.0.as_millisecond();
        write!(f, "{}.{:03}", millis.div_euclid(1000), millis.rem_euclid(1000))
    }
}
