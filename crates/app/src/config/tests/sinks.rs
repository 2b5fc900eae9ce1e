//! `[sinks]`: what they become, what is refused, and that no secret is shown.

use evergrant_core::alert::{Group, Level, SinkKind};

use super::*;

const SECRET: &str = "not-a-real-secret-0123456789";
const SIGNING: &str = "whsec_bm90LWEtcmVhbC1rZXktbm90LWEtcmVhbC1rZXk=";

fn all() -> String {
    format!(
        r#"
[sinks.teams]
kind = "teams"
url = "https://teams.example.org/{SECRET}"
[sinks.slack]
kind = "slack"
url = "https://slack.example.org/{SECRET}"
min_level = "red"
groups = ["chain"]
[sinks.pager]
kind = "pagerduty"
key = "{SECRET}"
[sinks.am]
kind = "alertmanager"
peers = ["http://10.0.0.1:9093/{SECRET}", "https://am-2.example.org"]
allow_insecure = true
[sinks.mail]
kind = "email"
url = "smtps://evergrant:{SECRET}@mail.example.org"
from = "Evergrant <evergrant@example.org>"
to = ["op@example.org", "Second <second@example.org>"]
[sinks.phone]
kind = "ntfy"
url = "https://ntfy.example.org/{SECRET}"
[sinks.hook]
kind = "webhook"
url = "http://127.0.0.1:9/{SECRET}"
key = "{SIGNING}"
"#
    )
}

#[test]
fn every_kind_is_taken_and_has_its_defaults() {
    let sinks = sound(&all()).settings.sinks;
    let kinds: Vec<_> = sinks.iter().map(|sink| (sink.name.as_str(), sink.kind.as_str())).collect();
    let expected = [
        ("am", "alertmanager"),
        ("hook", "webhook"),
        ("mail", "email"),
        ("pager", "pagerduty"),
        ("phone", "ntfy"),
        ("slack", "slack"),
        ("teams", "teams"),
    ];
    assert_eq!(kinds, expected);
    let of = |name: &str| sinks.iter().find(|sink| sink.name == name).unwrap();
    assert_eq!(
        (of("teams").min_level, &of("teams").groups[..]),
        (Level::Yellow, &[Group::TokenPush, Group::Chain][..])
    );
    assert_eq!((of("slack").min_level, &of("slack").groups[..]), (Level::Red, &[Group::Chain][..]));
    let SinkKind::PagerDuty { url, routing_key } = &of("pager").kind else { panic!() };
    assert_eq!((url.host().as_str(), routing_key.expose()), ("events.pagerduty.com", SECRET));
    let SinkKind::Alertmanager { peers, key: None } = &of("am").kind else { panic!() };
    assert_eq!(peers.len(), 2);
}

#[test]
fn secrets_come_from_files_and_variables_and_are_shown_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("url"), format!("https://chat.example.org/{SECRET}\n")).unwrap();
    let text = "[sinks.chat]\nkind = \"slack\"\nurl_file = \"url\"\n[sinks.on-call]\nkind = \"pagerduty\"\n";
    let with = env(&[("EVERGRANT_SINKS__ON_CALL__KEY", SECRET)]);
    let loaded = load_text(Some(folder.path().join("c.toml")), text, &with).unwrap();
    let [chat, on_call] = &loaded.settings.sinks[..] else { panic!("{:?}", loaded.settings.sinks) };
    assert!(matches!(&chat.kind, SinkKind::Slack { url } if url.expose().path() == format!("/{SECRET}")));
    assert!(
        matches!(&on_call.kind, SinkKind::PagerDuty { routing_key, .. } if routing_key.expose() == SECRET)
    );

    for loaded in [loaded, sound(&all())] {
        let said = format!("{loaded:?}{}", show(&loaded.raw));
        assert!(!said.contains(SECRET) && !said.contains(SIGNING), "{said}");
    }
    let shown = show(&sound(&all()).raw);
    assert!(shown.contains("# [sinks.mail] url is set, and not shown\n"), "{shown}");
    assert!(shown.contains("# [sinks.am] peers is set, and not shown\n"), "{shown}");
}

#[test]
fn faults_have_their_line_say_what_to_do_and_quote_no_secret() {
    let fault = |text: &str| {
        let faults = load_from(text, &[]).unwrap_err();
        let all = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(!all.contains(SECRET), "{all}");
        all
    };
    let of = |kind: &str, more: &str| fault(&format!("[sinks.x]\nkind = \"{kind}\"\n{more}\n"));
    for (said, parts) in [
        (fault("[sinks.x]\nmin_level = \"red\""), &["1:8", "sink \"x\" has no kind", "teams, slack"][..]),
        (of("team", ""), &["2:8", "did you mean \"teams\"?"]),
        (of("teams", ""), &["sink \"x\" has no url", "EVERGRANT_SINKS__X__URL"]),
        (of("teams", "peers = [\"https://x\"]\nurl = \"https://x\""), &["3:9", "of no use", "take it out"]),
        (
            of("teams", &format!("url = \"http://x.example.org/{SECRET}\"")),
            &["3:7", "plain http", "allow_insecure"],
        ),
        (of("slack", &format!("url = \"https://10.0.0.1/{SECRET}\"")), &["3:7", "private address"]),
        (of("slack", &format!("url = \"ftp://x/{SECRET}\"")), &["3:7", "https://"]),
        (of("slack", "url = \"https://a\"\nurl_file = \"b\""), &["4:12", "both set"]),
        (of("slack", "url_file = \"nowhere\""), &["3:12", "cannot be read"]),
        (of("alertmanager", "url = \"https://x\""), &["3:7", "list the addresses of all peers"]),
        (of("alertmanager", &format!("peers = [\"http://10.0.0.1/{SECRET}\"]")), &["plain http"]),
        (of("pagerduty", ""), &["has no key", "routing key"]),
        (of("webhook", &format!("url = \"https://x\"\nkey = \"{SECRET}\"")), &["4:7", "whsec_"]),
        (of("ntfy", "url = \"https://ntfy.example.org/\""), &["3:7", "names no topic"]),
        (of("email", "url = \"smtps://m.example.org\""), &["has no from", "has no to"]),
        (
            of(
                "email",
                &format!("url = \"smtp://u:{SECRET}@m.example.org?tls=none\"\nfrom = \"e@x\"\nto = [\"no\"]"),
            ),
            &["3:7", "mail without TLS", "5:6", "\"no\", which is no address"],
        ),
        (
            of("email", "url = \"imap://m\"\nfrom = \"e@x.org\"\nto = [\"o@x.org\"]"),
            &["3:7", "smtps:// or smtp://"],
        ),
        (fault("[sinks.Bad]\nkind = \"teams\"\nurl = \"https://x\""), &["1:8", "cannot name a sink"]),
    ] {
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in:\n{said}");
        }
    }
}

#[test]
fn what_the_documentation_shows_can_be_used() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/alerts.md");
    let page = std::fs::read_to_string(page).unwrap();
    let shown: Vec<_> = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(sound(&shown.concat()).settings.sinks.len(), 7);
}
