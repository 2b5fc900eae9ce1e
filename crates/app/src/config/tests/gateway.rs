//! What the file and the environment say of the gateway.

use evergrant_core::gateway::{FallbackOn, Injection};
use evergrant_server::gateway::AccessLog;

use super::*;

#[test]
fn the_gateway_has_its_defaults_and_every_field_is_taken() {
    let defaults = sound("").settings.gateway;
    assert_eq!(defaults.access_log, AccessLog::Stdout);
    assert_eq!(defaults.fallback_on, FallbackOn::default());
    assert!(defaults.threads >= 1 && defaults.max_fallbacks_per_day.is_none());
    let given = sound(
        "[gateway]\nthreads = 3\naccess_log = \"access.log\"\nreplay_mib = 1\nmax_connections = 7\ndrain_secs = 2\n\
         [gateway.fallback]\non = [\"rate_limited\", \"grant_refused\"]\nmax_requests_per_day = 5\n",
    );
    let gateway = given.settings.gateway;
    assert_eq!(gateway.access_log, AccessLog::File("/etc/eg/access.log".into()));
    assert_eq!((gateway.threads, gateway.limits.replay_bytes, gateway.limits.connections), (3, 1 << 20, 7));
    assert_eq!((gateway.limits.drain.as_secs(), gateway.max_fallbacks_per_day), (2, Some(5)));
    let on = FallbackOn { unauthorized: false, exhausted: false, rate_limited: true, grant_refused: true };
    assert_eq!(gateway.fallback_on, on);
    let loaded = load_from("", &[("EVERGRANT_GATEWAY__FALLBACK__ON", "exhausted, rate_limited")]).unwrap();
    let on = FallbackOn { unauthorized: false, exhausted: true, rate_limited: true, grant_refused: false };
    assert_eq!(loaded.settings.gateway.fallback_on, on);
}

#[test]
fn a_fallback_key_comes_from_its_file_or_from_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "sk-ant-api03-of-the-file\n").unwrap();
    let text = format!("[chains.claude]\nfallback_key_file = {:?}\n", file.display().to_string());
    let env = [("ANTHROPIC_FALLBACK_KEY", "sk-ant-api03-of-the-environment")];
    let key = |text: &str, env: &[(&str, &str)]| {
        let settings = load_from(text, env).unwrap().settings;
        settings.chains[0].fallback_key.as_ref().map(|key| key.expose().to_owned())
    };
    assert_eq!(key("", &[]), None);
    assert_eq!(key("", &env).as_deref(), Some("sk-ant-api03-of-the-environment"));
    assert_eq!(key(&text, &env).as_deref(), Some("sk-ant-api03-of-the-file"));
    assert_eq!(key("", &[("ANTHROPIC_FALLBACK_KEY", " ")]), None, "an empty variable is none");
    let faults = load_from("", &[("ANTHROPIC_FALLBACK_KEY", "two words")]).unwrap_err();
    let fault = faults.iter().find(|fault| fault.severity == Severity::Error).unwrap();
    assert!(fault.message.starts_with("ANTHROPIC_FALLBACK_KEY holds no API key"), "{fault}");
    assert!(!fault.to_string().contains("two words"));
}

#[test]
fn a_provider_of_your_own_is_forwarded_to_where_it_says() {
    let text = r#"
[chains.own]
provider = "own"
auth_file = "own.json"
[providers.own]
token_url = "http://127.0.0.1:9/token"
client_id = "me"
api_base = "https://api.example.org/base"
[providers.own.gateway]
route = "/v1/own/"
paths = ["/things", "/v2/others/"]
body_mib = 4
api_key_header = "X-Key"
"#;
    let loaded = sound(text);
    let rules = loaded.settings.chains[0].policy.profile.gateway.as_ref().unwrap();
    assert_eq!(rules.route, "/v1/own");
    let paths: Vec<_> =
        rules.paths.iter().map(|rule| (rule.path.as_str(), rule.below, rule.body_limit)).collect();
    assert_eq!(paths, [("/things", true, 4 << 20), ("/v2/others", true, 4 << 20)]);
    let api_key = Injection { header: "x-key".into(), before: String::new(), append: None };
    assert_eq!((rules.oauth.header.as_str(), &rules.api_key), ("authorization", &api_key));
}

#[test]
fn faults_of_the_gateway_say_what_to_do() {
    let of_own = |rest: &str| {
        format!(
            "[providers.own]\ntoken_url = \"https://a.example\"\nclient_id = \"me\"\napi_base = \"https://a.example\"\n\
             [providers.own.gateway]\n{rest}"
        )
    };
    for (text, message) in [
        ("[gateway]\nthreads = -1".to_owned(), "threads must be a whole number from 0 to 256"),
        ("[gateway.fallback]\non = [\"exhaused\"]".to_owned(), "on must be \"unauthorized\", \"exhausted\""),
        ("[gateway.fallback]\non = \"exhausted\"".to_owned(), "on must be a list of"),
        ("[gateway.fallback]\nmax_requests_per_day = 0".to_owned(), "max_requests_per_day must be"),
        ("[http]\ntls_cert = \"cert.pem\"".to_owned(), "tls_cert is of no use without tls_key"),
        ("[http]\nlisten = \"0.0.0.0:8787\"".to_owned(), "which others can reach without TLS"),
        (
            "[chains.claude]\nfallback_key_file = \"none\"".to_owned(),
            "fallback_key_file /etc/eg/none cannot be read",
        ),
        (of_own("route = \"v1\"\npaths = []"), "route cannot be \"v1\""),
        (of_own("route = \"/metrics\"\npaths = []"), "route cannot be \"/metrics\""),
        (of_own("route = \"/\"\npaths = []"), "route cannot be \"/\""),
        (of_own("route = \"/v1/own\"\npaths = [\"x\"]"), "paths holds \"x\""),
        (of_own("paths = [\"/x\"]"), "route"),
    ] {
        let faults = load_from(&text, &[]).unwrap_err();
        let fault = faults.iter().find(|fault| fault.severity == Severity::Error).unwrap();
        assert!(fault.message.contains(message), "{text}\n{fault}");
    }
    let tls = "[http]\nlisten = \"0.0.0.0:8787\"\ntls_cert = \"cert.pem\"\ntls_key = \"key.pem\"";
    let settings = sound(tls).settings;
    assert_eq!(settings.tls, Some(("/etc/eg/cert.pem".into(), "/etc/eg/key.pem".into())));
}
