//! Files that somebody else writes and that hold one secret: an identity token, an API key. They are read anew each
//! time and never written (SPEC §3, §13).

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use evergrant_core::secret::{ApiKey, IdentityToken, MAX_IDENTITY_TOKEN_LEN, MAX_TOKEN_LEN};
use zeroize::Zeroizing;

use crate::seal::KeyRing;

/// Blanks and line breaks around an API key that are put up with, in bytes.
const MOST_BLANKS: usize = 1024;
/// A file of seal keys is so long at most, in bytes.
const MOST_KEYS_LEN: usize = 16 * 1024;

/// Why a file gives no secret: a sentence that names the file, says what to do and quotes nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(String);

/// The identity token in a file, without the blanks around it; at most 16 KiB.
pub fn identity_token(path: &Path) -> Result<IdentityToken, Unusable> {
    let text = read(path, MAX_IDENTITY_TOKEN_LEN, "a JWT has 16 KiB at most")?;
    let wrong = |error| {
        let what = "the platform of this workload should write its JWT there";
        Unusable(format!("{} holds no identity token: {error}; {what}", path.display()))
    };
    IdentityToken::parse(&text).map_err(wrong)
}

/// The API key in a file, without the blanks around it.
pub fn api_key(path: &Path) -> Result<ApiKey, Unusable> {
    let text = read(path, MAX_TOKEN_LEN + MOST_BLANKS, "put nothing but the API key into it")?;
    let wrong = |error| {
        let what = "put nothing but the API key into it";
        Unusable(format!("{} holds no API key: {error}; {what}", path.display()))
    };
    ApiKey::parse(text.trim()).map_err(wrong)
}

/// The seal keys in a file, a key a line.
pub fn seal_keys(path: &Path) -> Result<KeyRing, Unusable> {
    let text = read(path, MOST_KEYS_LEN, "put nothing but seal keys into it, a key a line")?;
    KeyRing::parse(&text).map_err(|error| Unusable(format!("{}: {error}", path.display())))
}

/// Makes a file unreadable for others. Says whether it was open to them, and whether that could be changed.
pub fn tighten(path: &Path) -> Tightened {
    let Ok(found) = fs::metadata(path) else { return Tightened::Fine };
    if found.permissions().mode() & 0o077 == 0 {
        return Tightened::Fine;
    }
    match fs::set_permissions(path, fs::Permissions::from_mode(0o600)) {
        Ok(()) => Tightened::Done,
        Err(error) => Tightened::Failed(error.to_string()),
    }
}

/// What became of the mode of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tightened {
    /// Nobody else could read it.
    Fine,
    /// Others could read it until now.
    Done,
    /// Others can read it still, and why.
    Failed(String),
}

fn read(path: &Path, most: usize, help: &str) -> Result<Zeroizing<String>, Unusable> {
    let shown = path.display();
    let failed = |error: std::io::Error| Unusable(format!("{shown} cannot be read: {error}"));
    // A pipe or a device could block, or never end.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(Unusable(format!("{shown} is no file")));
    }
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
    file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > most {
        return Err(Unusable(format!("{shown} is too large: {help}")));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(Unusable(format!("{shown} is not text: {help}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_says_so_without_quoting() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        let says = |bytes: &[u8], token: &str, key: &str| {
            fs::write(&file, bytes).unwrap();
            let token_fault = identity_token(&file).map_or_else(|error| error.to_string(), |_| String::new());
            let key_fault = api_key(&file).map_or_else(|error| error.to_string(), |_| String::new());
            for (fault, expected) in [(token_fault, token), (key_fault, key)] {
                assert_eq!(fault.is_empty(), expected.is_empty(), "{fault}");
                assert!(fault.contains(expected) && !fault.contains("canary"), "{fault}");
            }
        };
        says(b" canary.a.b \n", "", "");
        says(b"\n", "it is empty", "it is empty");
        says(b"canary canary", "a character that no token has", "a character that no token has");
        says(&[b'x'; MAX_IDENTITY_TOKEN_LEN], "", "too large");
        says(&[b'x'; MAX_IDENTITY_TOKEN_LEN + 1], "too large", "too large");
        says(&[0xff], "not text", "not text");
        assert!(identity_token(folder.path()).unwrap_err().to_string().contains("is no file"));
        assert!(api_key(&folder.path().join("none")).unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn others_may_not_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, "x").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(tighten(&file), Tightened::Done);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(tighten(&file), Tightened::Fine);
        assert_eq!(tighten(&folder.path().join("none")), Tightened::Fine);
    }
}
