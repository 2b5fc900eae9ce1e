//! The kinds of chains: what each becomes, and the faults of what is missing or of no use.

use std::path::Path;

use evergrant_core::chain::Kind;
use evergrant_core::provider::Profile;

use super::{load_from, sound};
use crate::config::{Way, show};

const CLAUDE: &str = r#"
[chains.claude]
kind = "jwt_bearer"
identity_token_file = "token.jwt"
federation_rule_id = "fdrl_1"
organization_id = "org_1"
service_account_id = "svac_1"
"#;

#[test]
fn a_workload_at_claude_needs_no_terms_and_has_the_documented_members() {
    for (more, workspace) in [("", None), ("workspace_id = \"wrkspc_1\"\n", Some("wrkspc_1"))] {
        let loaded = sound(&format!("{CLAUDE}{more}"));
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        let [chain] = &loaded.settings.chains[..] else { panic!("one chain") };
        assert_eq!((chain.kind(), chain.accepted, chain.written_file()), (Kind::JwtBearer, true, None));
        assert_eq!(chain.policy.profile, Profile::claude());
        let Way::Minted(grounds) = &chain.way else { panic!("{:?}", chain.way) };
        assert_eq!(grounds.identity_token_file.as_deref(), Some(Path::new("/etc/eg/token.jwt")));
        let documented = [
            ("federation_rule_id", Some("fdrl_1")),
            ("organization_id", Some("org_1")),
            ("service_account_id", Some("svac_1")),
            ("workspace_id", workspace),
        ];
        let documented = documented.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let members = grounds.members.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        assert_eq!(members.collect::<Vec<_>>(), documented.collect::<Vec<_>>());
        assert_eq!(sound(&show(&loaded.raw)).settings, loaded.settings);
    }
}

#[test]
fn where_an_identity_token_goes_is_said_or_follows_the_token_url() {
    let url = |text: &str| {
        let loaded = sound(&format!("{CLAUDE}{text}"));
        loaded.settings.chains[0].policy.profile.federation.clone().unwrap().url.to_string()
    };
    let builtin = Profile::claude().federation.unwrap().url;
    assert_eq!(url("[providers.claude]\napi_base = \"https://localhost:1\""), builtin.as_str());
    let token_url = "[providers.claude]\ntoken_url = \"https://localhost:1/t\"";
    assert_eq!(url(token_url), "https://localhost:1/t");
    assert_eq!(
        url(&format!("{token_url}\nfederation_url = \"https://localhost:1/f\"")),
        "https://localhost:1/f"
    );
}

#[test]
fn an_api_key_and_ones_own_providers_become_chains() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "s3cret").unwrap();
    let loaded = sound(&format!(
        r#"
[chains.a-key]
kind = "api_key"
api_key_file = "~/key"
[chains.client]
provider = "own"
kind = "client_credentials"
scope = "one two"
members = {{ audience = "https://api.example.org" }}
[chains.workload]
provider = "own"
kind = "jwt_bearer"
identity_token_file = "/run/token"
[providers.own]
token_url = "https://example.org/token"
api_base = "https://example.org"
client_id = "me"
client_auth = "client_secret_post"
client_secret_file = "{}"
"#,
        secret.display()
    ));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let [key, client, workload] = &loaded.settings.chains[..] else { panic!("three chains") };
    assert_eq!(key.way, Way::ApiKey { api_key_file: "/home/op/key".into() });
    assert!(key.accepted && client.accepted && workload.accepted);
    assert_eq!((client.kind(), workload.kind()), (Kind::ClientCredentials, Kind::JwtBearer));
    let Way::Minted(grounds) = &client.way else { panic!("{:?}", client.way) };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(grounds.members, [pair("scope", "one two"), pair("audience", "https://api.example.org")]);
    let shown = show(&loaded.raw);
    assert_eq!(sound(&shown).settings, loaded.settings, "{shown}");
}

#[test]
fn every_fault_says_what_is_missing_or_of_no_use() {
    let own = "[providers.own]\ntoken_url = \"https://example.org/t\"\napi_base = \"https://example.org\"\nclient_id = \"me\"";
    for (text, says) in [
        (
            "[chains.claude]\nkind = \"jwt_barer\"".to_owned(),
            &[
                "2:8 kind must be \"refresh_token\", \"jwt_bearer\", \"client_credentials\" or \"api_key\", not \"jwt_barer\" | did you mean \"jwt_bearer\"?",
            ][..],
        ),
        (
            "[chains.claude]\nkind = \"jwt_bearer\"".to_owned(),
            &[
                "1:9 chain \"claude\" has no identity_token_file | set identity_token_file: the file with the JWT of this workload; or EVERGRANT_CHAINS__CLAUDE__IDENTITY_TOKEN_FILE",
                "1:9 chain \"claude\" has no federation_rule_id | set federation_rule_id: where the provider shows the federation rule, it shows this id; or EVERGRANT_CHAINS__CLAUDE__FEDERATION_RULE_ID",
                "1:9 chain \"claude\" has no organization_id | set organization_id: where the provider shows the federation rule, it shows this id; or EVERGRANT_CHAINS__CLAUDE__ORGANIZATION_ID",
                "1:9 chain \"claude\" has no service_account_id | set service_account_id: where the provider shows the federation rule, it shows this id; or EVERGRANT_CHAINS__CLAUDE__SERVICE_ACCOUNT_ID",
            ],
        ),
        (
            "[chains.claude]\nkind = \"api_key\"".to_owned(),
            &[
                "1:9 chain \"claude\" has no api_key_file | set api_key_file: a file with the API key and nothing else; or EVERGRANT_CHAINS__CLAUDE__API_KEY_FILE",
            ],
        ),
        (
            "[chains.claude]\nidentity_token_file = \"t\"".to_owned(),
            &[
                "2:23 identity_token_file is of no use to a chain of kind \"refresh_token\" | take it out, or set kind = \"jwt_bearer\"",
            ],
        ),
        (
            "[chains.claude]\nkind = \"api_key\"\napi_key_file = \"k\"\nauth_file = \"a\"\nscope = \"s\""
                .to_owned(),
            &[
                "4:13 auth_file is of no use to a chain of kind \"api_key\" | take it out, or set kind = \"refresh_token\"",
                "5:9 scope is of no use to a chain of kind \"api_key\" | take it out, or set kind = \"jwt_bearer\" or kind = \"client_credentials\"",
            ],
        ),
        (
            format!("{CLAUDE}scope = \"s\"\nmembers = {{ a = \"b\" }}"),
            &[
                "8:9 scope is of no use at provider \"claude\", which takes its own members only | take it out",
                "9:1 members is of no use at provider \"claude\", which takes its own members only | take it out",
            ],
        ),
        (
            "[chains.claude]\nkind = \"client_credentials\"".to_owned(),
            &[
                "2:8 provider \"claude\" has no client secret to get access tokens with | set client_auth and client_secret_file in its section, or choose another kind",
            ],
        ),
        (
            format!(
                "[chains.w]\nprovider = \"own\"\nkind = \"jwt_bearer\"\nidentity_token_file = \"t\"\nworkspace_id = \"w\"\n[chains.w.members]\nscope = \"s\"\nassertion = \"a\"\n{own}"
            ),
            &[
                "5:16 workspace_id is of no use at provider \"own\" | take it out, or name it in [chains.w.members] if its requests have it",
                "7:9 the member \"scope\" is set by Evergrant itself | it has a field of its own: scope",
                "8:13 the member \"assertion\" is set by Evergrant itself | take it out",
            ],
        ),
        (
            format!("{own}\nfederation_url = \"https://example.org/f\""),
            &[
                "5:18 federation_url is of no use to a provider that extends no built-in one | take it out: identity tokens are exchanged at token_url, as RFC 7523 has it",
            ],
        ),
    ] {
        let faults = load_from(&text, &[]).unwrap_err();
        let faults = faults.iter().filter(|fault| fault.reason.is_none()).map(|fault| {
            let (line, column) = (fault.line.unwrap_or(0), fault.column.unwrap_or(0));
            format!("{line}:{column} {} | {}", fault.message, fault.help.as_deref().unwrap_or("-"))
        });
        assert_eq!(faults.collect::<Vec<_>>(), says, "{text}");
    }
}

#[test]
fn variables_make_a_kind_too() {
    let loaded = load_from(
        "",
        &[
            ("EVERGRANT_CHAINS__CLAUDE__KIND", "api_key"),
            ("EVERGRANT_CHAINS__CLAUDE__API_KEY_FILE", "/run/key"),
        ],
    )
    .unwrap();
    assert_eq!(loaded.settings.chains[0].kind(), Kind::ApiKey);
}
