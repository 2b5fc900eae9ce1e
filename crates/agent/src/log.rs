//! The agent's own log: a file that is capped, and the one before it (SPEC §5).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Each of the two files has so many bytes at most.
pub const MOST_LEN: u64 = 5 * 1024 * 1024;
/// The log's name in the agent's folder.
pub const NAME: &str = "agent.log";

/// Writes lines, one call each.
#[derive(Debug, Clone)]
pub struct CappedLog(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: File,
    len: u64,
    most: u64,
}

impl CappedLog {
    /// Opens the log at a path, to go on at its end.
    pub fn open(path: &Path, most: u64) -> io::Result<Self> {
        let (file, len) = open(path)?;
        Ok(Self(Arc::new(Mutex::new(Inner { path: path.to_owned(), file, len, most }))))
    }
}

impl Write for CappedLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).line(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Inner {
    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let len = line.len() as u64;
        if self.len > 0 && self.len + len > self.most {
            fs::rename(&self.path, before(&self.path))?;
            (self.file, self.len) = open(&self.path)?;
        }
        self.len += len;
        self.file.write_all(line)
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let len = file.metadata()?.len();
    Ok((file, len))
}

/// Where the older half of the log is.
pub fn before(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// The last lines of the log, across both files.
pub fn tail(path: &Path, lines: usize) -> io::Result<Vec<String>> {
    let mut text = String::new();
    for path in [before(path), path.to_owned()] {
        match File::open(&path) {
            Ok(mut file) => {
                file.seek(SeekFrom::Start(0))?;
                let mut bytes = Vec::new();
                file.take(2 * MOST_LEN).read_to_end(&mut bytes)?;
                text.push_str(&String::from_utf8_lossy(&bytes));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let all: Vec<_> = text.lines().collect();
    Ok(all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_of_bounded_length_keep_the_newest_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        for begin in 0..4 {
            // Each of them goes on where the last one ended.
            let mut log = CappedLog::open(&path, 1000).unwrap();
            for line in 0..50 {
                log.write_all(format!("line {begin} {line:02}\n").as_bytes()).unwrap();
            }
        }
        for path in [path.clone(), before(&path)] {
            let len = fs::metadata(&path).unwrap().len();
            assert!((1..=1000).contains(&len), "{len}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        let lines = tail(&path, 60).unwrap();
        assert_eq!((lines.len(), lines[59].as_str(), lines[9].as_str()), (60, "line 3 49", "line 2 49"));
        assert_eq!(tail(&folder.path().join("none"), 5).unwrap(), [""; 0]);
    }
}
