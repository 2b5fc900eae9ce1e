//! The caller key of scope `push`: out of a file that is read anew each time, or out of the environment, never out of
//! arguments (SPEC §5, §13).

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use evergrant_core::caller::{KEY_LEN, KEY_PREFIX};
use zeroize::Zeroizing;

use crate::AgentError;

/// Blanks and line breaks around a key that are put up with.
const MOST_LEN: usize = KEY_LEN + 1024;

/// The key. It neither prints nor serialises.
#[derive(Clone, PartialEq, Eq)]
pub struct PushKey(Zeroizing<String>);

impl PushKey {
    /// Takes a text as a key, without the blanks around it.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let fits = text.len() == KEY_LEN
            && text.starts_with(KEY_PREFIX)
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// The secret itself. The only door: every use is found by searching for it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PushKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PushKey(…)")
    }
}

/// Where the key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A file that holds it and nothing else.
    File(PathBuf),
    /// The environment gave it.
    Given(PushKey),
    /// Nowhere.
    Missing,
}

impl KeySource {
    /// The key, now.
    pub fn key(&self) -> Result<PushKey, AgentError> {
        match self {
            Self::File(path) => read(path),
            Self::Given(key) => Ok(key.clone()),
            Self::Missing => Err(AgentError::Unusable(
                "the agent has no key: make one on the server (evergrant keys create --scope push), put it into a \
                 file, and name that file as key_file in [agent]"
                    .to_owned(),
            )),
        }
    }
}

fn read(path: &Path) -> Result<PushKey, AgentError> {
    let failed = |error| AgentError::file(path, "the key file cannot be read; put the push key there", error);
    let found = fs::metadata(path).map_err(failed)?;
    let unusable = |what: &str| AgentError::Unusable(format!("the key file {} {what}", path.display()));
    if !found.is_file() {
        return Err(unusable("is no file"));
    }
    if found.permissions().mode() & 0o077 != 0 {
        tracing::warn!(file = %path.display(), "others could read the key file; it is 0600 now");
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(path, mode)
            .map_err(|error| AgentError::file(path, "others can read it", error))?;
    }
    let mut text = Zeroizing::new(String::with_capacity(MOST_LEN + 1));
    let file = File::open(path).map_err(failed)?;
    file.take(MOST_LEN as u64 + 1).read_to_string(&mut text).map_err(failed)?;
    PushKey::parse(&text).ok_or_else(|| {
        unusable(
            "holds no key: one begins with evg_ and was shown once by `evergrant keys create --scope push`",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_is_tightened_and_never_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let key = format!("{KEY_PREFIX}{}", "k".repeat(KEY_LEN - KEY_PREFIX.len()));
        fs::write(&path, format!("\n{key}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let read = KeySource::File(path.clone()).key().unwrap();
        assert_eq!((read.expose(), format!("{read:?}").as_str()), (key.as_str(), "PushKey(…)"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        for wrong in ["", "canary-canary", &key[1..], &format!("{key} {key}")] {
            fs::write(&path, wrong).unwrap();
            let fault = KeySource::File(path.clone()).key().unwrap_err().to_string();
            assert!(fault.contains("holds no key") && !fault.contains("canary"), "{fault}");
        }
        let missing = KeySource::File(folder.path().join("none")).key().unwrap_err().to_string();
        assert!(missing.contains("cannot be read"), "{missing}");
        assert!(KeySource::Missing.key().unwrap_err().to_string().contains("keys create --scope push"));
    }
}
