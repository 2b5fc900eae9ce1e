//! Where pairs are of record (SPEC §4, §12, §13): the database, its seal keys and its marks, and what a chain says of its
//! vault.

use std::fmt;
use std::path::PathBuf;

use evergrant_core::chain::Kind;
use evergrant_store::postgres::DatabaseUrl;
use evergrant_store::seal::KeyRing;
use evergrant_store::secret_file;

use super::environment::variable;
use super::fault::Fault;
use super::file::{Chain, ChainKind, Config, Vault};
use super::resolve::Resolve;
use super::settings::{Export, Way};
use super::source;

/// Holds the seal keys themselves.
pub(crate) const KEY_VARIABLE: &str = "EVERGRANT_SEAL_KEY";
/// What systemd calls the credential that holds them.
const CREDENTIAL: &str = "evergrant-seal-key";
/// The database that several servers share.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DatabaseSettings {
    /// Where it is.
    pub(crate) url: DatabaseUrl,
    /// Where this machine remembers how far its chains had come, absolute.
    pub(crate) marks_file: PathBuf,
    /// What seals pairs in it.
    pub(crate) seal: Option<SealKeys>,
}

/// The seal keys, and where they came from.
#[derive(Clone)]
pub(crate) struct SealKeys {
    /// The keys.
    pub(crate) ring: KeyRing,
    /// The file that holds them, unless it was the environment.
    pub(crate) file: Option<PathBuf>,
}

impl fmt::Debug for SealKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SealKeys").field(&self.ring).finish()
    }
}

impl PartialEq for SealKeys {
    fn eq(&self, other: &Self) -> bool {
        self.ring.ids().eq(other.ring.ids())
    }
}

/// The outer `None`: it is faulty. The inner one: there is no database.
pub(crate) fn database(raw: &mut Config, resolve: &mut Resolve<'_>) -> Option<Option<DatabaseSettings>> {
    let marks_file = resolve.path(&mut raw.marks_file, &["marks_file"])?;
    let seal = seal_keys(raw, resolve)?;
    let Some(given) = &raw.database_url else { return Some(None) };
    let url = match given.expose().trim().parse::<DatabaseUrl>() {
        Ok(url) => url,
        Err(error) => {
            let help = "for example \"postgres://evergrant:PASSWORD@db.example.net/evergrant\"";
            let fault = Fault::error(format!("database_url is {error}")).help(help);
            resolve.fault(&["database_url"], fault);
            return None;
        }
    };
    let state_dir = raw.state_dir.clone()?;
    let marks_file = marks_file.unwrap_or_else(|| source::marks_file(resolve.env(), &state_dir));
    if marks_file.starts_with(&state_dir) {
        let message =
            "marks_file lies in the state folder: whoever restores that from a backup restores the marks too";
        let help =
            "put it where no backup of the state reaches, for example /var/lib/evergrant-marks/marks.db";
        resolve.fault(&["marks_file"], Fault::error(message).help(help));
        return None;
    }
    raw.marks_file = Some(marks_file.clone());
    Some(Some(DatabaseSettings { url, marks_file, seal }))
}

/// The outer `None`: they are faulty. The inner one: there are none.
fn seal_keys(raw: &mut Config, resolve: &mut Resolve<'_>) -> Option<Option<SealKeys>> {
    let keys = ["seal", "key_file"];
    let named = resolve.path(&mut raw.seal.key_file, &keys)?;
    if let Some(text) = resolve.variable(KEY_VARIABLE) {
        return match KeyRing::parse(text) {
            Ok(ring) => Some(Some(SealKeys { ring, file: None })),
            Err(error) => {
                resolve.missing(&keys, Fault::error(format!("{KEY_VARIABLE}: {error}")));
                None
            }
        };
    }
    let credential =
        resolve.variable("CREDENTIALS_DIRECTORY").map(|folder| PathBuf::from(folder).join(CREDENTIAL));
    let Some(file) = named.or_else(|| credential.filter(|file| file.exists())) else { return Some(None) };
    let read = secret_file::seal_keys(&file).map_err(|unusable| unusable.to_string());
    match read {
        Ok(ring) => Some(Some(SealKeys { ring, file: Some(file) })),
        Err(why) => {
            resolve.fault(&keys, Fault::error(why));
            None
        }
    }
}

/// How a chain whose pair is of record in the database gets its access tokens; `None`: a fault says why not.
pub(crate) fn way(name: &str, chain: &mut Chain, resolve: &mut Resolve<'_>) -> Option<Way> {
    let mut sound = true;
    if chain.auth_file.is_some() {
        let fault = Fault::error("auth_file is of no use to a chain with vault = \"database\"");
        let help = "take it out; export = PATH writes an auth file for readers";
        resolve.fault(&["chains", name, "auth_file"], fault.help(help));
        sound = false;
    }
    let file = resolve.path(&mut chain.export, &["chains", name, "export"])?;
    if chain.export_refresh_token && file.is_none() {
        let fault = Fault::error("export_refresh_token is of no use without export");
        resolve.fault(&["chains", name, "export_refresh_token"], fault.help("set export too: a path"));
        sound = false;
    }
    let export = file.map(|file| Export { file, refresh_token: chain.export_refresh_token });
    sound.then_some(Way::Database { export })
}

/// Says which fields are of no use to a chain whose pair is of record in its auth file.
pub(crate) fn of_no_use(name: &str, chain: &Chain, resolve: &mut Resolve<'_>) -> bool {
    let mut any = false;
    for (field, set) in
        [("export", chain.export.is_some()), ("export_refresh_token", chain.export_refresh_token)]
    {
        if set {
            let message = format!("{field} is of no use to a chain whose auth file is its vault");
            let fault = Fault::error(message).help("take it out, or set vault = \"database\"");
            resolve.fault(&["chains", name, field], fault);
            any = true;
        }
    }
    any
}

/// What a chain of the database needs besides. Says whether it has it.
pub(crate) fn check(
    name: &str,
    chain: &Chain,
    database: Option<&DatabaseSettings>,
    resolve: &mut Resolve<'_>,
) -> bool {
    if chain.vault != Vault::Database || !chain.enabled {
        return true;
    }
    let keys = ["chains", name, "vault"];
    let Some(database) = database else {
        let message = format!("chain {name:?} has its pair in the database, and there is no database_url");
        let help = format!("set database_url, or {}", variable(&["database_url"]));
        resolve.fault(&keys, Fault::error(message).help(help));
        return false;
    };
    if database.seal.is_none() {
        let message = format!(
            "chain {name:?} has its pair in the database, and there is no seal key: nothing is ever stored unsealed"
        );
        let help = format!(
            "make one, `(umask 077; evergrant seal new-key > FILE)`, give it to every server of this database, and set\n\
             [seal]\nkey_file = \"FILE\"\nor {KEY_VARIABLE} to the key itself, or a systemd credential {CREDENTIAL}"
        );
        resolve.fault(&keys, Fault::error(message).help(help));
        return false;
    }
    true
}

/// The beginning of names that a section `[chains."PREFIX*"]` stands for, if it is one. The inner `None`: it is faulty.
pub(crate) fn prefix(name: &str, chain: &Chain, resolve: &mut Resolve<'_>) -> Option<Option<String>> {
    let prefix = name.strip_suffix('*')?;
    let like = format!("{prefix}x");
    if let Err(error) = like.parse::<evergrant_core::ChainName>() {
        resolve
            .fault(&["chains", name], Fault::error(format!("{name:?} can begin no chain's name: {error}")));
        return Some(None);
    }
    let mut sound = true;
    if chain.kind != ChainKind::RefreshToken || chain.vault != Vault::Database {
        let message = format!(
            "[chains.{name:?}] stands for many chains, whose pairs must be of record in the database"
        );
        let help = format!(
            "set kind = {:?} and vault = \"database\", or give it a name without *",
            Kind::RefreshToken.as_str()
        );
        resolve.fault(&["chains", name], Fault::error(message).help(help));
        sound = false;
    }
    let of_one = [
        ("export", chain.export.is_some()),
        ("push", chain.push),
        ("expected", chain.expected.is_some()),
        ("token_read", chain.token_read),
    ];
    for (field, set) in of_one {
        if set {
            let message = format!("{field} is of no use to [chains.{name:?}], which stands for many chains");
            let fault = Fault::error(message).help("take it out, or give those chains sections of their own");
            resolve.fault(&["chains", name, field], fault);
            sound = false;
        }
    }
    Some(sound.then(|| prefix.to_owned()))
}
