//! Faulty files and variables with the place and the words of every fault.

use super::load_from;
use crate::config::Severity;

/// `LINE:COLUMN message | help` of each fault.
pub(super) fn faults_of(text: &str, pairs: &[(&str, &str)]) -> Vec<String> {
    let faults = match load_from(text, pairs) {
        Ok(loaded) => loaded.warnings,
        Err(faults) => faults,
    };
    faults
        .iter()
        .filter(|fault| fault.reason.is_none())
        .map(|fault| {
            let place = match (fault.line, fault.column) {
                (Some(line), Some(column)) => format!("{line}:{column}"),
                _ => "-".to_owned(),
            };
            let help = fault.help.as_deref().unwrap_or("-");
            format!("{place} {} | {help}", fault.message)
        })
        .collect()
}

#[test]
fn every_fault_has_its_place_and_says_what_to_do() {
    for (text, expected) in [
        (
            "colour = 1",
            &[
                "1:1 unknown key \"colour\" | known here: state_dir, database_url, marks_file, seal, log, telemetry, http, gateway, chains, sinks, probe, alerts, watchdog, agent, retention, providers",
            ][..],
        ),
        (
            "[http]\nlistn = \"127.0.0.1:1\"",
            &["2:1 unknown key \"listn\" in [http] | did you mean \"listen\"?"],
        ),
        ("listen = \"127.0.0.1:1\"", &["1:1 unknown key \"listen\" | it belongs to [http]"]),
        (
            "[log]\ndeadline_secs = 3",
            &["2:1 unknown key \"deadline_secs\" in [log] | it belongs to [chains.NAME]"],
        ),
        ("[htpp]\n", &["1:2 unknown key \"htpp\" | did you mean \"http\"?"]),
        (
            "[chains.claude]\nrenew_before = 3",
            &["2:1 unknown key \"renew_before\" in [chains.claude] | did you mean \"renew_before_secs\"?"],
        ),
        ("[http]\nlisten = 8787", &["2:10 listen must be a string, not a number | put it in quotes"]),
        (
            "[http]\nbehind_proxy = \"yes\"",
            &["2:16 behind_proxy must be true or false, not a string | write it without quotes"],
        ),
        ("http = 1", &["1:8 http must be a table, not a number | -"]),
        (
            "[log]\nlevel = \"inf\"",
            &[
                "2:9 level must be \"error\", \"warn\", \"info\", \"debug\" or \"trace\", not \"inf\" | did you mean \"info\"?",
            ],
        ),
        (
            "[chains.claude]\ndeadline_secs = 56",
            &["2:17 deadline_secs must be a whole number from 1 to 55, not 56 | -"],
        ),
        (
            "[chains.claude]\ndeadline_secs = 0x0",
            &["2:17 deadline_secs must be a whole number from 1 to 55, not 0 | -"],
        ),
        (
            "[chains.claude]\nrenew_before_secs = -1",
            &["2:21 renew_before_secs must be a whole number from 0 to 31536000, not -1 | -"],
        ),
        (
            "[chains.claude]\ndeadline_secs = 1.5",
            &["2:17 deadline_secs must be a whole number from 1 to 55, not a fraction | -"],
        ),
        (
            "[http]\nlisten = \"localhost:8787\"",
            &[
                "2:10 listen must be an address with a port, not \"localhost:8787\" | for example \"127.0.0.1:8787\" or \"[::1]:8787\"; a host name will not do",
            ],
        ),
        (
            "[http]\nlisten = \"0.0.0.0:80\"",
            &[
                "2:10 listen is 0.0.0.0:80, which others can reach without TLS | listen on 127.0.0.1, set tls_cert and tls_key, or put a proxy that ends TLS in front and set behind_proxy = true",
            ],
        ),
        (
            "[chains.\"Über\"]",
            &[
                "1:9 \"Über\" is no chain name: use 1 to 64 of a-z, 0-9, - and _, with a letter or digit first | -",
            ],
        ),
        (
            "[chains.claude]\nprovider = \"cluade\"",
            &["2:12 there is no provider \"cluade\" | did you mean \"claude\"?"],
        ),
        (
            "[chains.claude]\nprovider = \"x\"",
            &[
                "2:12 there is no provider \"x\" | known: claude; another one is described in [providers.NAME]",
            ],
        ),
        (
            "[chains.a]\nauth_file = \"x\"\n[chains.b]\nauth_file = \"./x\"",
            &[
                "4:13 chain \"b\" has the auth file of chain \"a\": /etc/eg/./x | each chain needs a file of its own: set auth_file",
            ],
        ),
        (
            "[chains.a]\n[chains.b]",
            &[
                "2:9 chain \"b\" has the auth file of chain \"a\": /home/op/.config/claude-code/auth.json | each chain needs a file of its own: set auth_file",
            ],
        ),
        ("state_dir = \"\"", &["1:13 state_dir must not be empty | -"]),
        ("state_dir = \"~root/x\"", &["1:13 state_dir can begin with ~/ only for your own home | -"]),
        (
            "[providers.p]\nclient_id = \"i\"",
            &[
                "1:12 provider \"p\" has no token_url, no api_base | add it, or begin with a built-in profile: extends = \"claude\"",
            ],
        ),
        (
            "[providers.p]\nextends = \"clod\"",
            &["2:11 extends must name a built-in profile, and \"clod\" is none | there is one: \"claude\""],
        ),
        (
            "[providers.claude]\ntoken_url = \"http://example.org/t\"",
            &[
                "2:13 token_url must begin with https:// | plain http is accepted for localhost, 127.0.0.0/8 and [::1] only",
            ],
        ),
        (
            "[providers.claude]\napi_base = \"ftp://127.0.0.1\"",
            &[
                "2:12 api_base must begin with https:// | plain http is accepted for localhost, 127.0.0.0/8 and [::1] only",
            ],
        ),
        (
            "[providers.claude]\ntoken_url = \"https://u:canary@example.org/t\"",
            &[
                "2:13 token_url must not hold a user name or password | use client_auth and client_secret_file for what proves the client",
            ],
        ),
        (
            "[providers.claude]\nprobe_url = \"nowhere\"",
            &["2:13 probe_url is no URL: relative URL without a base | -"],
        ),
        (
            "[providers.claude]\nround_trip = \"v1\"",
            &["2:14 round_trip must be a path below api_base that begins with \"/\" | -"],
        ),
        (
            "[providers.claude]\nreuse = \"strickt\"",
            &[
                "2:9 reuse must be \"strict\", \"none\" or { grace = … }, not \"strickt\" | did you mean \"strict\"?",
            ],
        ),
        (
            "[providers.claude]\nreuse = { grce = 1 }",
            &["2:11 unknown key \"grce\" in [providers.claude.reuse] | did you mean \"grace\"?"],
        ),
        (
            "[providers.claude]\nreuse = {}",
            &["2:9 reuse must be \"strict\", \"none\" or { grace = … }, not an empty table | -"],
        ),
        (
            "[providers.claude]\nreuse = { grace = \"1\" }",
            &["2:19 grace must be a whole number from 0, not a string | write it without quotes"],
        ),
        (
            "[providers.claude]\nclient_auth = \"client_secret_post\"",
            &["2:15 client_auth needs a secret | put it into a file of its own and set client_secret_file"],
        ),
        (
            "[providers.claude]\nclient_secret_file = \"s\"",
            &[
                "2:22 client_secret_file is of no use to a public client | set client_auth to \"client_secret_basic\" or \"client_secret_post\"",
            ],
        ),
        (
            "[providers.claude]\nheaders = { User-Agent = \"x\" }",
            &["2:26 the header \"User-Agent\" is set by Evergrant itself | -"],
        ),
        (
            "[agent]\nserver = \"evergrant\"\n[agent.chains.A]\nconfig_dir = \"\"\nfoldr = 1",
            &[
                "2:10 server must be the address of Evergrant, not \"evergrant\" | for example \"https://evergrant.example.org\"",
                "3:15 \"A\" is no chain name: use 1 to 64 of a-z, 0-9, - and _, with a letter or digit first | -",
                "4:14 config_dir must not be empty | -",
                "5:1 unknown key \"foldr\" in [agent.chains.A] | known here: config_dir, file, keychain, account, key_file",
            ],
        ),
        (
            "[agent]\nsinks = [\"ops\"]",
            &[
                "2:9 sinks names \"ops\", and there is no sink of that name | describe it in [sinks.ops] of the workstation's configuration; any kind but email will do",
            ],
        ),
        (
            "[providers.claude.headers]\n\"a b\" = \"x\"\nc = 1",
            &[
                "2:9 \"a b\" cannot be the name of a header | -",
                "3:5 c must be a string, not a number | put it in quotes",
            ],
        ),
    ] {
        assert_eq!(faults_of(text, &[]), expected, "{text}");
    }
}

#[test]
fn what_is_not_toml_has_its_place_too() {
    for (text, line, column) in [("[http\n", 1, 6), ("a = = 1\n", 1, 5), ("\n[log]\nlevel = info\n", 3, 9)] {
        let faults = load_from(text, &[]).unwrap_err();
        let first = &faults[0];
        assert!(first.message.starts_with("this is not TOML: "), "{first}");
        assert_eq!((first.line, first.column), (Some(line), Some(column)), "{text:?} {first}");
    }
    let twice = load_from("[log]\nlevel = \"info\"\nlevel = \"warn\"", &[]).unwrap_err();
    assert_eq!((twice.len(), twice[0].line), (1, Some(3)), "{twice:?}");
}

#[test]
fn all_faults_come_at_once_in_the_order_of_the_file() {
    let text = "colour = 1\n[http]\nlisten = \"0.0.0.0:1\"\n[chains.claude]\ndeadline_secs = 99\nprovider = \"no\"\n";
    let places: Vec<_> =
        load_from(text, &[]).unwrap_err().iter().map(|fault| (fault.line, fault.column)).collect();
    assert_eq!(places, [(Some(1), Some(1)), (Some(3), Some(10)), (Some(5), Some(17)), (Some(6), Some(12))]);
}

#[test]
fn columns_count_characters_and_faults_print_like_a_compilers() {
    let faults = load_from("log = { \"größe\" = 1, \"x\" = 2 }", &[]).unwrap_err();
    assert_eq!(
        faults[1].to_string(),
        "/etc/eg/config.toml:1:22: error: unknown key \"x\" in [log]\n    known here: format, level"
    );
}

#[test]
fn faults_of_the_environment_name_the_variable() {
    for (variable, value, message, help) in [
        (
            "EVERGRANT_HTTP__LISTEN",
            "x",
            "EVERGRANT_HTTP__LISTEN: listen must be an address with a port, not \"x\"",
            Some("for example \"127.0.0.1:8787\" or \"[::1]:8787\"; a host name will not do"),
        ),
        (
            "EVERGRANT_HTTP__BEHIND_PROXY",
            "yes",
            "EVERGRANT_HTTP__BEHIND_PROXY: behind_proxy must be true or false, not \"yes\"",
            None,
        ),
        (
            "EVERGRANT_STATE_DIR",
            "rel",
            "EVERGRANT_STATE_DIR: state_dir must be an absolute path, or begin with ~/",
            None,
        ),
        (
            "EVERGRANT_LOG__LEVEL",
            "dbug",
            "EVERGRANT_LOG__LEVEL: level must be \"error\", \"warn\", \"info\", \"debug\" or \"trace\", not \"dbug\"",
            Some("did you mean \"debug\"?"),
        ),
    ] {
        let faults = load_from("", &[(variable, value)]).unwrap_err();
        let fault = faults.iter().find(|fault| fault.severity == Severity::Error).unwrap();
        assert_eq!((fault.message.as_str(), fault.help.as_deref()), (message, help));
        assert_eq!((&fault.file, fault.line), (&None, None));
    }
}

#[test]
fn unknown_variables_are_warnings_with_a_suggestion() {
    for (variable, meant) in [
        ("EVERGRANT_LISTEN", Some("EVERGRANT_HTTP__LISTEN")),
        ("EVERGRANT_CONFIGS", Some("EVERGRANT_CONFIG")),
        ("EVERGRANT_HTTP_LISTEN", Some("EVERGRANT_HTTP__LISTEN")),
        ("EVERGRANT_CHAINS__CLAUDE__AUTHFILE", Some("EVERGRANT_CHAINS__CLAUDE__AUTH_FILE")),
        ("EVERGRANT_HTTP", None),
        ("EVERGRANT_CHAINS__CLAUDE", None),
    ] {
        let loaded = load_from("", &[(variable, "1")]).unwrap();
        let warning = &loaded.warnings.iter().find(|fault| fault.reason.is_none()).unwrap();
        assert_eq!(warning.message, format!("{variable} is no variable that Evergrant knows"));
        if let Some(meant) = meant {
            assert_eq!(warning.help.as_deref(), Some(&*format!("did you mean {meant}?")));
        }
    }
}
