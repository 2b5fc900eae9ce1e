//! What the agent keeps across restarts: one file for each chain, replaced as a whole, under a lock that `agent push`
//! and the running agent share (SPEC §5).

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use evergrant_core::ChainName;
use evergrant_core::push::agent::Memory;
use jiff::Timestamp;
use rand::RngExt as _;

use crate::AgentError;
use crate::clock::Stopwatch;

/// A look that found nothing new is written down only so often: less than what counts as fresh by its date.
const QUIET_SECS: i64 = 4 * 60;

/// Whoever asks whether an agent runs is done within this.
const ASKED: Duration = Duration::from_secs(2);

/// The agent's folder.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

/// Who holds this may change the memory; it ends with its holder.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "its end is what lets the lock go")] File);

impl Folder {
    /// The folder, which is made if it is missing.
    pub fn open(path: &Path) -> Result<Self, AgentError> {
        let failed = |error| AgentError::file(path, "the agent's folder cannot be used", error);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        }
        Ok(Self(path.to_owned()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The agent's id, which is made once and kept.
    pub fn agent_id(&self) -> Result<String, AgentError> {
        let path = self.0.join("agent-id");
        let failed = |error| AgentError::file(&path, "the agent's id cannot be kept", error);
        if let Some(id) = known_id(&path).map_err(failed)? {
            return Ok(id);
        }
        let bytes: [u8; 8] = rand::rng().random();
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let own = self.0.join(format!("agent-id.{id}"));
        write(&own, id.as_bytes()).map_err(failed)?;
        // Whoever links it first has made it.
        let linked = fs::hard_link(&own, &path);
        let _ = fs::remove_file(&own);
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        match known_id(&path).map_err(failed)? {
            Some(id) => Ok(id),
            None => {
                replace(&path, id.as_bytes()).map_err(failed)?;
                Ok(id)
            }
        }
    }

    /// Waits for the memory of a chain, for `bound` at most.
    pub fn hold(&self, chain: &ChainName, bound: Duration) -> Result<Held, AgentError> {
        let held = self.lock(&format!("{chain}.lock"), bound)?;
        held.ok_or_else(|| {
            let secs = bound.as_secs();
            AgentError::Busy(format!(
                "another agent command has been working on chain {chain} for {secs} s; try again when it is done"
            ))
        })
    }

    /// Makes this process the one that runs; `None`: another one is.
    pub fn run(&self) -> Result<Option<Held>, AgentError> {
        self.lock("run.lock", ASKED)
    }

    /// Whether a process runs. Who asks holds the lock for a blink.
    pub fn is_run(&self) -> Result<bool, AgentError> {
        Ok(self.lock("run.lock", Duration::from_millis(100))?.is_none())
    }

    fn lock(&self, name: &str, bound: Duration) -> Result<Option<Held>, AgentError> {
        let path = self.0.join(name);
        let failed = |error| AgentError::file(&path, "the lock cannot be taken", error);
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(failed)?;
        let begun = Stopwatch::start();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Held(file))),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) if begun.passed() >= bound => return Ok(None),
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// What is known of a chain. A file that cannot be read as that is set aside, and what was written since it was
    /// counts as new.
    pub fn load(&self, chain: &ChainName) -> Result<Memory, AgentError> {
        let path = self.file(chain);
        let failed = |error| AgentError::file(&path, "the agent's memory cannot be read", error);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Memory::default()),
            Err(error) => return Err(failed(error)),
        };
        let fault = match serde_json::from_slice(&bytes) {
            Ok(memory) => return Ok(memory),
            Err(fault) => fault,
        };
        let written = fs::metadata(&path).and_then(|metadata| metadata.modified()).map_err(failed)?;
        let aside = path.with_extension("json.corrupt");
        fs::rename(&path, &aside).map_err(failed)?;
        tracing::warn!(file = %aside.display(), %fault, "the agent's memory cannot be read and was set aside; it begins anew");
        Ok(Memory { last_look: Timestamp::try_from(written).ok(), ..Memory::default() })
    }

    /// Makes the memory durable, unless nothing but the time of a look is new.
    pub fn save(&self, chain: &ChainName, before: &Memory, memory: &Memory) -> Result<(), AgentError> {
        if is_quiet(before, memory) {
            return Ok(());
        }
        let path = self.file(chain);
        let failed = |error| AgentError::file(&path, "the agent's memory cannot be kept", error);
        let mut bytes = serde_json::to_vec_pretty(memory).map_err(|error| failed(error.into()))?;
        bytes.push(b'\n');
        replace(&path, &bytes).map_err(failed)
    }

    fn file(&self, chain: &ChainName) -> PathBuf {
        self.0.join(format!("{chain}.json"))
    }
}

fn is_quiet(before: &Memory, memory: &Memory) -> bool {
    let (Some(earlier), Some(later)) = (before.last_look, memory.last_look) else { return before == memory };
    let undated = |memory: &Memory| {
        let mut memory = memory.clone();
        memory.last_look = None;
        memory.seen.values_mut().for_each(|seen| seen.at = Timestamp::UNIX_EPOCH);
        memory
    };
    (0..QUIET_SECS).contains(&later.duration_since(earlier).as_secs()) && undated(before) == undated(memory)
}

fn known_id(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let id = text.trim().to_owned();
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            Ok((1..=64).contains(&id.len()).then_some(id).filter(|id| id.bytes().all(plain)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces a file as a whole: a crash leaves the old one or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    write(&new, bytes)?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // One that an earlier process left may have another mode.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use evergrant_core::push::agent::Seen;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(secs).unwrap()
    }

    #[test]
    fn what_is_kept_is_read_again_and_nobody_else_reads_it() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = Folder::open(&scratch.path().join("agent")).unwrap();
        let chain: ChainName = "claude".parse().unwrap();
        let none = folder.load(&chain).unwrap();
        assert_eq!(none, Memory::default());
        let memory = Memory { last_look: Some(at(1)), ..none.clone() };
        folder.save(&chain, &none, &memory).unwrap();
        assert_eq!(folder.load(&chain).unwrap(), memory);
        for (path, mode) in [(folder.path().to_owned(), 0o700), (folder.path().join("claude.json"), 0o600)] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
        }
        let id = folder.agent_id().unwrap();
        assert_eq!((id.len(), folder.agent_id().unwrap()), (16, id));
        let names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn a_quiet_look_is_written_down_every_four_minutes() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = Folder::open(scratch.path()).unwrap();
        let chain: ChainName = "claude".parse().unwrap();
        let seen = |secs| Memory {
            last_look: Some(at(secs)),
            seen: [("file".to_owned(), Seen { at: at(secs), fingerprint: None })].into(),
            ..Memory::default()
        };
        folder.save(&chain, &Memory::default(), &seen(0)).unwrap();
        for (secs, kept) in [(60, 0), (239, 0), (240, 240), (241, 240), (200, 200)] {
            let before = folder.load(&chain).unwrap();
            folder.save(&chain, &before, &seen(secs)).unwrap();
            assert_eq!(folder.load(&chain).unwrap(), seen(kept), "{secs}");
        }
        let news = Memory { saw_nothing: true, ..seen(201) };
        folder.save(&chain, &seen(200), &news).unwrap();
        assert_eq!(folder.load(&chain).unwrap(), news);
    }

    #[test]
    fn a_spoilt_memory_is_set_aside_and_hides_no_login() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = Folder::open(scratch.path()).unwrap();
        let chain: ChainName = "claude".parse().unwrap();
        let path = scratch.path().join("claude.json");
        fs::write(&path, "{\"last_look\": tru").unwrap();
        let written = Timestamp::try_from(fs::metadata(&path).unwrap().modified().unwrap()).unwrap();
        let memory = folder.load(&chain).unwrap();
        assert_eq!(memory, Memory { last_look: Some(written), ..Memory::default() });
        assert_eq!(fs::read(scratch.path().join("claude.json.corrupt")).unwrap(), b"{\"last_look\": tru");
        assert!(!path.exists());
    }

    #[test]
    fn one_works_on_a_chain_at_a_time() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = Folder::open(scratch.path()).unwrap();
        let chain: ChainName = "claude".parse().unwrap();
        let held = folder.hold(&chain, Duration::ZERO).unwrap();
        let busy = folder.hold(&chain, Duration::from_millis(50)).unwrap_err().to_string();
        assert!(busy.contains("another agent command"), "{busy}");
        assert!(folder.hold(&"other".parse().unwrap(), Duration::ZERO).is_ok());
        drop(held);
        // A program that another test starts at this moment may hold it for a blink.
        assert!(folder.hold(&chain, Duration::from_secs(10)).is_ok());
        let running = folder.run().unwrap();
        assert!(running.is_some() && folder.run().unwrap().is_none() && folder.is_run().unwrap());
        drop(running);
        assert!(!folder.is_run().unwrap());
    }
}
