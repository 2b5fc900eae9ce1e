//! The login on this workstation: the keychain's item, then the file in the client's config folder (SPEC §5).

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use evergrant_core::authfile::{self, MAX_LEN, Reading};
use evergrant_core::grant::Grant;
use evergrant_core::provider::Profile;
use evergrant_core::push::Identity;
use evergrant_core::push::agent::{Holds, Sight};
use jiff::Timestamp;
use jiff::civil::DateTime;
use sha2::{Digest, Sha256};
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use crate::process::{self, NotRun, Surroundings};

/// `security` ends with this where there is no such item.
const NO_ITEM: i32 = 44;
/// A program that waits for a person is ended after so long.
const BOUND: Duration = Duration::from_secs(20);

/// Where a chain's login lies.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The keychain's item, where there is a keychain.
    pub keychain: Option<Keychain>,
    /// The file.
    pub file: PathBuf,
    /// The client's config folder, where it is one of the chain's own.
    pub config_dir: Option<String>,
    /// How both are read.
    pub profile: Profile,
}

/// An item of the macOS keychain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keychain {
    /// The program that reads it.
    pub program: PathBuf,
    /// Its service.
    pub service: String,
    /// Its account: the login name at the system.
    pub account: String,
    /// What the program gets of the environment.
    pub around: Surroundings,
}

/// What a look found.
#[derive(Debug, Clone)]
pub struct Found {
    /// What is decided by.
    pub sight: Sight,
    /// The grant, if there is one.
    pub grant: Option<Grant>,
    /// Whose it is, where the entry says so.
    pub identity: Option<Identity>,
    /// What is wrong with the entry, for a person. It never quotes it.
    pub fault: Option<String>,
}

/// The service of the keychain's item: a config folder of its own has an item of its own.
pub fn service(base: &str, config_dir: Option<&str>) -> String {
    match config_dir {
        None => base.to_owned(),
        Some(folder) => {
            let composed: String = folder.nfc().collect();
            let digest = Sha256::digest(composed.as_bytes());
            let suffix: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            format!("{base}-{suffix}")
        }
    }
}

impl Entry {
    /// Looks at the candidates: the first one that holds a grant counts, else the first that holds anything.
    pub fn look(&self) -> Found {
        let keychain = self.keychain.as_ref().map(|keychain| keychain.look(&self.profile));
        let locked = keychain.as_ref().is_some_and(|found| found.sight.keychain_locked);
        let usable = |found: &Found| found.grant.is_some();
        let mut found = match keychain {
            Some(found) if usable(&found) => found,
            None => look_at_file(&self.file, &self.profile),
            Some(keychain) => {
                let file = look_at_file(&self.file, &self.profile);
                if usable(&file) || keychain.sight.holds == Holds::Nothing { file } else { keychain }
            }
        };
        found.sight.keychain_locked = locked;
        found
    }
}

impl Keychain {
    fn name(&self) -> String {
        format!("keychain {}", self.service)
    }

    fn look(&self, profile: &Profile) -> Found {
        // The date first: what is written between the two calls is then newer than its date, never older.
        let attributes = match self.call(false) {
            Ok(output) => output,
            Err(Unread::NoItem) => return nothing(),
            Err(Unread::Locked(why)) => return self.locked(why),
        };
        let secret = match self.call(true) {
            Ok(output) => output,
            Err(Unread::NoItem) => return nothing(),
            Err(Unread::Locked(why)) => return self.locked(why),
        };
        let modified_at = modified_at(&String::from_utf8_lossy(&attributes));
        read(self.name(), modified_at, &plain(&secret), profile)
    }

    fn locked(&self, why: String) -> Found {
        let sight = Sight {
            entry: Some(self.name()),
            modified_at: None,
            holds: Holds::Locked,
            keychain_locked: true,
        };
        Found { sight, grant: None, identity: None, fault: Some(why) }
    }

    fn call(&self, secret: bool) -> Result<Zeroizing<Vec<u8>>, Unread> {
        let mut arguments = vec!["find-generic-password", "-s", &self.service, "-a", &self.account];
        if secret {
            arguments.push("-w");
        }
        match process::run(&self.program, &arguments, &self.around, BOUND) {
            Ok(ran) if ran.status.success() => Ok(ran.stdout),
            Ok(ran) if ran.status.code() == Some(NO_ITEM) => Err(Unread::NoItem),
            Err(NotRun::Missing(_)) => Err(Unread::NoItem),
            // 36 is a locked keychain. Whatever else keeps it from being read passes like a lock, or is found by the
            // condition for a lock that does not.
            Ok(ran) => Err(Unread::Locked(format!("the keychain cannot be read: {}", ran.words()))),
            Err(error) => Err(Unread::Locked(format!("the keychain cannot be read: {error}"))),
        }
    }
}

/// Why the keychain gave nothing.
enum Unread {
    NoItem,
    Locked(String),
}

/// `-w` prints a secret as it is, or in hex where it holds anything but printable ASCII.
fn plain(output: &[u8]) -> Zeroizing<Vec<u8>> {
    let text = output.trim_ascii();
    let hex = !text.is_empty() && text.len().is_multiple_of(2) && text.iter().all(u8::is_ascii_hexdigit);
    if !hex {
        return Zeroizing::new(text.to_vec());
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_default() as u8;
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() / 2));
    bytes.extend(text.chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])));
    bytes
}

/// `"mdat"<timedate>=0x3230…00  "20260905235807Z\000"`, in UTC.
fn modified_at(attributes: &str) -> Option<Timestamp> {
    let line = attributes.lines().find(|line| line.trim_start().starts_with("\"mdat\""))?;
    let digits = line.rsplit('"').find(|part| part.contains('Z'))?.split('Z').next()?;
    let at = DateTime::strptime("%Y%m%d%H%M%S", digits).ok()?;
    jiff::tz::TimeZone::UTC.to_timestamp(at).ok()
}

fn look_at_file(path: &Path, profile: &Profile) -> Found {
    let name = format!("file {}", path.display());
    let opened = fs::File::open(path).and_then(|file| Ok((file.metadata()?, file)));
    let (metadata, file) = match opened {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return nothing(),
        Err(error) => return malformed(name, None, format!("{} cannot be read: {error}", path.display())),
    };
    let modified_at = metadata.modified().ok().and_then(|at| Timestamp::try_from(at).ok());
    if !metadata.is_file() {
        return malformed(name, None, format!("{} is no file", path.display()));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
    match file.take(MAX_LEN as u64 + 1).read_to_end(&mut bytes) {
        Ok(_) => read(name, modified_at, &bytes, profile),
        Err(error) => malformed(name, modified_at, format!("{} cannot be read: {error}", path.display())),
    }
}

fn read(name: String, modified_at: Option<Timestamp>, bytes: &[u8], profile: &Profile) -> Found {
    match authfile::read(bytes, profile) {
        Reading::Grant(grant) => Found {
            sight: Sight {
                entry: Some(name),
                modified_at,
                holds: Holds::Grant(grant.pair().fingerprint()),
                keychain_locked: false,
            },
            identity: authfile::identity(bytes),
            grant: Some(grant),
            fault: None,
        },
        Reading::Wiped => Found {
            sight: Sight { entry: Some(name), modified_at, holds: Holds::Wiped, keychain_locked: false },
            grant: None,
            identity: None,
            fault: None,
        },
        Reading::Malformed(fault) => {
            let fault = format!("{name} is no login: {fault}");
            malformed(name, modified_at, fault)
        }
    }
}

fn malformed(name: String, modified_at: Option<Timestamp>, fault: String) -> Found {
    let sight = Sight { entry: Some(name), modified_at, holds: Holds::Malformed, keychain_locked: false };
    Found { sight, grant: None, identity: None, fault: Some(fault) }
}

fn nothing() -> Found {
    let sight = Sight { entry: None, modified_at: None, holds: Holds::Nothing, keychain_locked: false };
    Found { sight, grant: None, identity: None, fault: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_folder_of_its_own_has_a_service_of_its_own() {
        assert_eq!(service("Base", None), "Base");
        // printf %s /Users/x/.claude-server | sha256sum
        let digest = Sha256::digest(b"/Users/x/.claude-server");
        let expected = format!("Base-{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3]);
        assert_eq!(service("Base", Some("/Users/x/.claude-server")), expected);
        // The same name, composed and decomposed.
        assert_eq!(service("B", Some("/Users/J\u{fc}rgen")), service("B", Some("/Users/Ju\u{308}rgen")));
    }

    #[test]
    fn the_date_is_found_among_the_attributes() {
        let attributes = "keychain: \"/Users/x/Library/Keychains/login.keychain-db\"\nclass: \"genp\"\nattributes:\n    \
            \"acct\"<blob>=\"x\"\n    \"cdat\"<timedate>=0x32303236303130313030303030305A00  \"20260101000000Z\\000\"\n    \
            \"mdat\"<timedate>=0x32303236303930353233353830375A00  \"20260905235807Z\\000\"\n";
        assert_eq!(modified_at(attributes), Some("2026-09-05T23:58:07Z".parse().unwrap()));
        for none in ["", "\"mdat\"<timedate>=<NULL>", "\"mdat\"<timedate>=0x00  \"nonsenseZ\\000\""] {
            assert_eq!(modified_at(none), None, "{none}");
        }
    }

    #[test]
    fn hex_is_told_from_text() {
        assert_eq!(plain(b"{\"a\":1}\n").as_slice(), b"{\"a\":1}");
        assert_eq!(plain(b"7b22c3a4227d\n").as_slice(), "{\"ä\"}".as_bytes());
        assert_eq!(plain(b"\n").as_slice(), b"");
        assert_eq!(plain(b"7b2").as_slice(), b"7b2");
    }
}
