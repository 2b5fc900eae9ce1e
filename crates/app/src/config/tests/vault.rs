//! The database as a vault: what its settings become, and every fault in them.

use std::path::Path;

use super::faults::faults_of;
use super::{load_from, sound};
use crate::config::{Way, show};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const URL: (&str, &str) = ("EVERGRANT_DATABASE_URL", "postgres://me:canary@db.example/evergrant");
const SEALED: (&str, &str) = ("EVERGRANT_SEAL_KEY", KEY);

/// A sound chain of the database.
const CHAIN: &str = "[chains.a]\naccept_provider_terms = true\nvault = \"database\"\n";

#[test]
fn a_chain_of_the_database_has_what_it_needs() {
    let text = format!(
        "{CHAIN}export = \"a.json\"\nexport_refresh_token = true\n[chains.\"team-*\"]\naccept_provider_terms = true\nvault = \"database\"\n"
    );
    let loaded = load_from(&text, &[URL, SEALED]).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let settings = &loaded.settings;
    let database = settings.database.as_ref().unwrap();
    assert_eq!(database.url.place(), "db.example:5432/evergrant");
    assert_eq!(database.marks_file, Path::new("/home/op/.local/share/evergrant/marks.db"));
    assert!(database.seal.is_some());
    let [chain] = &settings.chains[..] else { panic!("one is named") };
    let Way::Database { export: Some(export) } = &chain.way else { panic!("{:?}", chain.way) };
    assert_eq!((export.file.as_path(), export.refresh_token), (Path::new("/etc/eg/a.json"), true));
    assert_eq!(settings.templates[0].prefix, "team-");
    let shown = show(&loaded.raw);
    assert!(!shown.contains("canary") && !shown.contains(KEY), "{shown}");
    // A marks file of one's own, and where the usual one would lie in the state.
    let own = load_from(&format!("marks_file = \"m.db\"\n{CHAIN}"), &[URL, SEALED]).unwrap();
    assert_eq!(own.settings.database.unwrap().marks_file, Path::new("/etc/eg/m.db"));
    let within = load_from(&format!("state_dir = \"/home/op\"\n{CHAIN}"), &[URL, SEALED]).unwrap();
    let marks = within.settings.database.unwrap().marks_file;
    assert_eq!(marks, Path::new("/var/lib/evergrant-marks/marks.db"));
    // Nobody needs a database or keys for an auth file.
    assert!(sound("[chains.a]\nauth_file = \"a\"").settings.database.is_none());
}

#[test]
fn every_fault_of_a_database_has_its_place_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (empty, nonsense) = (file("empty", "\n"), file("nonsense", &format!("{KEY}\nx\n")));
    let (twice, gone) = (file("twice", &format!("{KEY}\n{KEY}\n")), folder.path().join("gone"));
    let (gone, folder) = (gone.display(), folder.path().display());
    let (both, url, key, none) = (&[URL, SEALED][..], &[URL][..], &[SEALED][..], &[][..]);
    for (text, pairs, expected) in [
        // The database.
        (
            "database_url = \"mysql://me:canary@db/x\"".to_owned(),
            none,
            vec!["1:16 database_url is not a PostgreSQL URL: it begins with postgres:// | for example \"postgres://evergrant:PASSWORD@db.example.net/evergrant\"".to_owned()],
        ),
        (
            "database_url = \"postgres://db/x?sslmode=allow\"".to_owned(),
            none,
            vec!["1:16 database_url is not a PostgreSQL URL: sslmode is disable, prefer, require, verify-ca or verify-full | for example \"postgres://evergrant:PASSWORD@db.example.net/evergrant\"".to_owned()],
        ),
        (
            "database_url = \"postgres:///x\"".to_owned(),
            none,
            vec!["1:16 database_url is not a PostgreSQL URL: it names no host | for example \"postgres://evergrant:PASSWORD@db.example.net/evergrant\"".to_owned()],
        ),
        ("database_url = 5432".to_owned(), none, vec!["1:16 database_url must be a string, not a number | put it in quotes".to_owned()]),
        // The marks.
        (
            format!("state_dir = \"/s\"\nmarks_file = \"/s/marks.db\"\n{CHAIN}"),
            both,
            vec!["2:14 marks_file lies in the state folder: whoever restores that from a backup restores the marks too | put it where no backup of the state reaches, for example /var/lib/evergrant-marks/marks.db".to_owned()],
        ),
        ("marks_file = \"\"".to_owned(), none, vec!["1:14 marks_file must not be empty | -".to_owned()]),
        // The keys.
        ("[seal]\nkey = \"x\"".to_owned(), none, vec!["2:1 unknown key \"key\" in [seal] | did you mean \"key_file\"?".to_owned()]),
        ("[seal]\nkey_file = \"\"".to_owned(), none, vec!["2:12 key_file must not be empty | -".to_owned()]),
        (
            format!("[seal]\nkey_file = \"{gone}\"\n{CHAIN}"),
            url,
            vec![format!("2:12 {gone} cannot be read: No such file or directory (os error 2) | -")],
        ),
        (format!("[seal]\nkey_file = \"{folder}\""), none, vec![format!("2:12 {folder} is no file | -")]),
        (
            format!("[seal]\nkey_file = \"{empty}\""),
            none,
            vec![format!("2:12 {empty}: there is no seal key in it: make one with `evergrant seal new-key` | -")],
        ),
        (
            format!("[seal]\nkey_file = \"{nonsense}\""),
            none,
            vec![format!("2:12 {nonsense}: line 2 is no seal key: a key is 32 bytes in base64, as `evergrant seal new-key` prints it | -")],
        ),
        (format!("[seal]\nkey_file = \"{twice}\""), none, vec![format!("2:12 {twice}: line 2 repeats a seal key | -")]),
        (
            CHAIN.to_owned(),
            &[URL, ("EVERGRANT_SEAL_KEY", "canary")],
            vec!["- EVERGRANT_SEAL_KEY: line 1 is no seal key: a key is 32 bytes in base64, as `evergrant seal new-key` prints it | -".to_owned()],
        ),
        // What a chain of the database needs.
        (
            CHAIN.to_owned(),
            key,
            vec!["3:9 chain \"a\" has its pair in the database, and there is no database_url | set database_url, or EVERGRANT_DATABASE_URL".to_owned()],
        ),
        (
            CHAIN.to_owned(),
            url,
            vec!["3:9 chain \"a\" has its pair in the database, and there is no seal key: nothing is ever stored unsealed | make one, `(umask 077; evergrant seal new-key > FILE)`, give it to every server of this database, and set\n[seal]\nkey_file = \"FILE\"\nor EVERGRANT_SEAL_KEY to the key itself, or a systemd credential evergrant-seal-key".to_owned()],
        ),
        // What is of no use to it, or to others.
        (
            "[chains.a]\nvault = \"databse\"".to_owned(),
            both,
            vec!["2:9 vault must be \"auth_file\" or \"database\", not \"databse\" | did you mean \"database\"?".to_owned()],
        ),
        (
            format!("{CHAIN}auth_file = \"a\""),
            both,
            vec!["4:13 auth_file is of no use to a chain with vault = \"database\" | take it out; export = PATH writes an auth file for readers".to_owned()],
        ),
        (
            format!("{CHAIN}export_refresh_token = true"),
            both,
            vec!["4:24 export_refresh_token is of no use without export | set export too: a path".to_owned()],
        ),
        (format!("{CHAIN}export = \"\""), both, vec!["4:10 export must not be empty | -".to_owned()]),
        (
            "[chains.a]\nauth_file = \"a\"\nexport = \"b\"\nexport_refresh_token = true".to_owned(),
            none,
            vec![
                "3:10 export is of no use to a chain whose auth file is its vault | take it out, or set vault = \"database\"".to_owned(),
                "4:24 export_refresh_token is of no use to a chain whose auth file is its vault | take it out, or set vault = \"database\"".to_owned(),
            ],
        ),
        (
            format!("{CHAIN}export = \"x\"\n[chains.b]\naccept_provider_terms = true\nvault = \"database\"\nexport = \"./x\""),
            both,
            vec!["8:10 chain \"b\" has the auth file of chain \"a\": /etc/eg/./x | each chain needs a file of its own: set export".to_owned()],
        ),
        (
            "[chains.a]\nkind = \"api_key\"\napi_key_file = \"k\"\nvault = \"database\"".to_owned(),
            both,
            vec!["4:9 vault is of no use to a chain of kind \"api_key\" | take it out, or set kind = \"refresh_token\"".to_owned()],
        ),
        // Names that stand for many.
        (
            "[chains.\"Team-*\"]\naccept_provider_terms = true\nvault = \"database\"".to_owned(),
            both,
            vec!["1:9 \"Team-*\" can begin no chain's name: \"Team-x\" is no chain name: use 1 to 64 of a-z, 0-9, - and _, with a letter or digit first | -".to_owned()],
        ),
        (
            "[chains.\"*\"]\naccept_provider_terms = true".to_owned(),
            both,
            vec!["1:9 [chains.\"*\"] stands for many chains, whose pairs must be of record in the database | set kind = \"refresh_token\" and vault = \"database\", or give it a name without *".to_owned()],
        ),
        (
            "[chains.\"t-*\"]\nkind = \"api_key\"\napi_key_file = \"k\"".to_owned(),
            both,
            vec!["1:9 [chains.\"t-*\"] stands for many chains, whose pairs must be of record in the database | set kind = \"refresh_token\" and vault = \"database\", or give it a name without *".to_owned()],
        ),
        (
            "[chains.\"t-*\"]\naccept_provider_terms = true\nvault = \"database\"\nexport = \"x\"\npush = true\ntoken_read = true".to_owned(),
            both,
            vec!["4:10 export is of no use to [chains.\"t-*\"], which stands for many chains | take it out, or give those chains sections of their own".to_owned(),"5:8 push is of no use to [chains.\"t-*\"], which stands for many chains | take it out, or give those chains sections of their own".to_owned(),"6:14 token_read is of no use to [chains.\"t-*\"], which stands for many chains | take it out, or give those chains sections of their own".to_owned()],
        ),
    ] {
        let found = faults_of(&text, pairs);
        assert!(!found.concat().contains("canary"), "{found:?}");
        assert_eq!(found, expected, "{text}");
    }
}
