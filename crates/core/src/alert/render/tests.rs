use jiff::SignedDuration;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::alert::sink::{PAGERDUTY_URL, SigningKey};
use crate::alert::{Concerned, Condition, EpisodeId, Fact, Group, Links, largest, samples};
use crate::secret::SinkKey;

fn now() -> Timestamp {
    "2026-11-24T18:00:00Z".parse().unwrap()
}

fn links() -> Links {
    Links {
        runbook: "https://docs.example.org/runbook".into(),
        server: "https://evergrant.example.org".into(),
    }
}

fn sample(status: &str) -> Alert {
    samples(&links(), now()).into_iter().find(|alert| alert.status == status).unwrap()
}

fn url(text: &str) -> SinkUrl {
    SinkUrl::new(text.parse().unwrap())
}

fn key() -> SinkKey {
    SinkKey::parse("not-a-real-key-0123456789").unwrap()
}

fn sink(kind: SinkKind) -> Sink {
    let groups = vec![Group::TokenPush, Group::Chain];
    Sink { name: "it".into(), kind, min_level: Level::Yellow, groups, allow_insecure: false, ca_file: None }
}

fn requests(kind: SinkKind, alert: &Alert) -> Vec<OutgoingRequest> {
    match render(&sink(kind), alert, now()) {
        Rendered::Requests(requests) => requests,
        Rendered::Email(email) => panic!("{email:?}"),
    }
}

fn bodies(kind: SinkKind, alert: &Alert) -> Vec<Value> {
    requests(kind, alert).iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect()
}

fn teams(alert: &Alert) -> Value {
    bodies(SinkKind::Teams { url: url("https://teams.example.org/hook") }, alert).remove(0)
}

fn slack(alert: &Alert) -> Value {
    bodies(SinkKind::Slack { url: url("https://hooks.example.org/x") }, alert).remove(0)
}

fn pagerduty(alert: &Alert) -> Vec<Value> {
    bodies(SinkKind::PagerDuty { url: url(PAGERDUTY_URL), routing_key: key() }, alert)
}

fn alertmanager(alert: &Alert) -> Vec<Value> {
    let peers = vec![url("https://am.example.org/prefix/")];
    bodies(SinkKind::Alertmanager { peers, key: None }, alert).remove(0).as_array().unwrap().clone()
}

#[test]
fn teams_says_all_that_an_alert_has_to_say() {
    let alert = sample("reauth_required");
    let message = teams(&alert);
    let content = &message["attachments"][0]["content"];
    assert_eq!(content["msteams"]["width"], "Full");
    assert_eq!(content["version"], "1.4");
    assert_eq!(content["body"][0]["style"], "attention");
    let text = content.to_string();
    let action = alert.action.unwrap();
    for part in ["🔴", &alert.runbook_url, &alert.status_url, &action.commands[0], &action.commands[1]] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(text.contains("the fallback key: 214 requests of at most 5000 today"), "{text}");
    let monospace = text.matches("\"Monospace\"").count();
    assert_eq!(monospace, action.commands.len());
    let closed = teams(&sample("recovered")).to_string();
    assert!(closed.contains("lasted 1 h 12 min") && closed.contains("\"good\""), "{closed}");
}

#[test]
fn teams_cuts_evidence_first_and_says_so() {
    let alert = largest(&links(), now()).unwrap();
    let message = teams(&alert);
    let text = message.to_string();
    assert!((MAX - 400..=MAX).contains(&text.len()), "{}", text.len());
    let shown = message.pointer("/attachments/0/content/body").unwrap().as_array().unwrap();
    let facts =
        shown.iter().find(|element| element["type"] == "FactSet").unwrap()["facts"].as_array().unwrap();
    let left = alert.evidence.len() - facts.len();
    assert!(text.contains(&format!("{left} more lines of evidence left out")), "{text}");
    assert!(text.contains("evergrant agent doctor"));
}

const MAX: usize = TEAMS_MAX_LEN;

#[test]
fn no_value_becomes_a_link_a_mention_or_a_line_of_its_own() {
    let mut alert = sample("failed");
    let hostile =
        "[press](https://evil.example) <!channel> <https://evil.example|here> {{DATE(x)}}\n# **now**";
    alert.evidence = vec![Fact::new("Agent", hostile)];
    alert.summary = hostile.into();
    alert.serving = hostile.into();
    let card = teams(&alert).to_string();
    assert!(!card.contains("](") && !card.contains("{{"), "{card}");
    assert!(!card.contains("\\n"), "{card}");
    let blocks = slack(&alert).to_string();
    assert!(!blocks.contains("<!channel>\\n") && blocks.contains("&lt;!channel&gt;"), "{blocks}");
    let mail = mail(&alert);
    assert!(!mail.html.contains("<https:") && !mail.subject.contains('\n'), "{mail:?}");
}

fn mail(alert: &Alert) -> Email {
    let kind = SinkKind::Email {
        smtp: url("smtps://u:p@mail.example.org"),
        from: "Evergrant <evergrant@ops.example.org>".into(),
        to: vec!["op@example.org".into()],
    };
    match render(&sink(kind), alert, now()) {
        Rendered::Email(email) => email,
        Rendered::Requests(requests) => panic!("{requests:?}"),
    }
}

#[test]
fn mails_of_one_episode_are_one_thread() {
    let mut alert = sample("reauth_required");
    let opening = mail(&alert);
    assert_eq!(opening.message_id, format!("<{}@ops.example.org>", alert.id));
    assert_eq!(opening.references, None);
    alert.state = AlertState::Reminder;
    alert.id = alert.id.replace("-open", "-reminder-1");
    let reminder = mail(&alert);
    assert_eq!(reminder.references.as_ref(), Some(&opening.message_id));
    assert_ne!(reminder.message_id, opening.message_id);
    assert!(opening.subject.starts_with("[Evergrant] 🔴 Chain claude: "), "{}", opening.subject);
    let action = alert.action.unwrap();
    for part in [&action.commands[0], &alert.runbook_url, "Reason"] {
        assert!(opening.text.contains(part) && opening.html.contains(part), "{part}\n{}", opening.text);
    }
}

#[test]
fn slack_keeps_its_limits() {
    for alert in samples(&links(), now()).iter().chain(&largest(&links(), now())) {
        let message = slack(alert);
        let blocks = message["blocks"].as_array().unwrap();
        assert!(blocks.len() <= 50 && !message["text"].as_str().unwrap().is_empty());
        for block in blocks {
            let len =
                |at: &str| block.pointer(at).and_then(Value::as_str).map_or(0, |text| text.chars().count());
            match block["type"].as_str().unwrap() {
                "header" => assert!((1..=150).contains(&len("/text/text")), "{block}"),
                "section" if block.get("fields").is_some() => {
                    let fields = block["fields"].as_array().unwrap();
                    assert!((1..=10).contains(&fields.len()));
                    assert!(
                        fields.iter().all(|field| field["text"].as_str().unwrap().chars().count() <= 2000)
                    );
                }
                "section" => assert!((1..=3000).contains(&len("/text/text")), "{block}"),
                "context" | "actions" => assert!(block["elements"].as_array().unwrap().len() <= 10),
                other => panic!("{other}"),
            }
        }
    }
}

#[test]
fn pagerduty_gets_one_event_an_episode_under_its_id() {
    let mut alert = sample("reauth_required");
    let other: crate::ChainName = "other".parse().unwrap();
    let episode = EpisodeId::new(&other, alert.condition, now());
    alert.concerned.push(Concerned { episode, chain: other.clone(), since: now(), ended_at: None });
    let events = pagerduty(&alert);
    let keys: Vec<_> = events.iter().map(|event| event["dedup_key"].as_str().unwrap()).collect();
    assert_eq!(keys, [alert.concerned[0].episode.as_str(), alert.concerned[1].episode.as_str()]);
    for event in &events {
        assert_eq!(
            (&event["event_action"], &event["payload"]["severity"]),
            (&"trigger".into(), &"critical".into())
        );
    }
    alert.state = AlertState::Reminder;
    assert_eq!(pagerduty(&alert)[0]["event_action"], "trigger");
    let replaced = EpisodeId::new(&other, Condition::MacSilent, now());
    alert.replaces.push(replaced.clone());
    let first = &pagerduty(&alert)[0];
    assert_eq!((&first["event_action"], &first["dedup_key"]), (&"resolve".into(), &replaced.as_str().into()));

    let closed = pagerduty(&sample("recovered"));
    assert_eq!((closed.len(), &closed[0]["event_action"]), (1, &"resolve".into()));
    let rehearsed = pagerduty(&sample("failed").rehearsed());
    let actions: Vec<_> = rehearsed.iter().map(|event| event["event_action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["trigger", "resolve"], "a rehearsal leaves no incident");
    assert!(rehearsed[0]["payload"]["summary"].as_str().unwrap().starts_with("TEST"));
}

#[test]
fn alertmanager_knows_an_episode_by_labels_that_stay() {
    let mut alert = sample("reauth_required");
    let open = alertmanager(&alert).remove(0);
    assert_eq!(open["labels"]["alertname"], "EvergrantReauthRequired");
    assert_eq!(open["labels"]["severity"], "critical");
    assert_eq!(open["endsAt"], "2026-11-24T18:05:00Z");
    assert_eq!(open["startsAt"], "2026-11-24T17:57:00Z");
    let replaced = EpisodeId::new(&alert.concerned[0].chain, Condition::MacSilent, now());
    alert.replaces.push(replaced);
    let end = now() - SignedDuration::from_mins(1);
    alert.concerned[0].ended_at = Some(end);
    (alert.ended_at, alert.state, alert.level) = (Some(end), AlertState::Closed, Level::Green);
    let closed = alertmanager(&alert);
    assert_eq!(
        (&closed[1]["labels"], &closed[1]["endsAt"]),
        (&open["labels"], &"2026-11-24T17:59:00Z".into())
    );
    assert_eq!(closed[0]["labels"]["alertname"], "EvergrantMacSilent");
    assert_eq!(
        (&closed[0]["labels"]["severity"], &closed[0]["endsAt"]),
        (&"warning".into(), &"2026-11-24T18:00:00Z".into())
    );

    let peers = vec![url("https://am.example.org/prefix/"), url("http://127.0.0.1:9093")];
    let sent = requests(SinkKind::Alertmanager { peers, key: Some(key()) }, &alert);
    let places: Vec<_> = sent.iter().map(|request| request.url.expose().as_str()).collect();
    assert_eq!(
        places,
        ["https://am.example.org/prefix/api/v2/alerts", "http://127.0.0.1:9093/api/v2/alerts"]
    );
    assert!(sent[0].headers.contains(&("authorization".into(), format!("Bearer {}", key().expose()))));
    assert!(!format!("{sent:?}").contains("not-a-real"), "{sent:?}");
}

#[test]
fn ntfy_publishes_to_the_topics_server() {
    let kind = SinkKind::Ntfy { url: url("https://push.example.org/sub/my-topic?x=1"), key: Some(key()) };
    let sent = requests(kind, &sample("failed"));
    assert_eq!(sent[0].url.expose().as_str(), "https://push.example.org/sub/");
    let body: Value = serde_json::from_slice(&sent[0].body).unwrap();
    assert_eq!((&body["topic"], &body["priority"]), (&"my-topic".into(), &5.into()));
    assert_eq!(body["tags"][0], "red_circle");
    let kind = SinkKind::Ntfy { url: url("https://ntfy.example.org/t"), key: None };
    let large = bodies(kind, &largest(&links(), now()).unwrap()).remove(0);
    assert!(large["message"].as_str().unwrap().len() <= 4096);
}

#[test]
fn a_webhook_bears_the_signature_that_the_scheme_documents() {
    let signing = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let kind = SinkKind::Webhook { url: url("https://in.example.org/"), key: signing.clone() };
    let alert = sample("stale");
    let sent = requests(kind, &alert).remove(0);
    let header = |name: &str| sent.headers.iter().find(|(known, _)| known == name).unwrap().1.clone();
    assert_eq!((header("webhook-id"), header("webhook-timestamp")), (alert.id.clone(), "1795543200".into()));
    // RFC 2104 by hand, so that the library is checked too.
    let digest = |parts: &[&[u8]]| <sha2::Sha256 as sha2::Digest>::digest(parts.concat()).to_vec();
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block.iter_mut().zip(signing.expose()).for_each(|(pad, key)| *pad ^= key);
        block
    };
    let signed = [format!("{}.1795543200.", alert.id).as_bytes(), sent.body.as_slice()].concat();
    let mac = digest(&[&pad(0x5c), &digest(&[&pad(0x36), &signed])]);
    use base64::Engine as _;
    let expected = format!("v1,{}", base64::engine::general_purpose::STANDARD.encode(mac));
    assert_eq!(header("webhook-signature"), expected);
    let body: Value = serde_json::from_slice(&sent.body).unwrap();
    assert_eq!(body["type"], "evergrant.alert.open");
    assert_eq!(serde_json::from_value::<Alert>(body["data"].clone()).unwrap(), alert);
}

#[test]
fn a_rehearsal_is_recognised_everywhere() {
    let alert = sample("mac_silent").rehearsed();
    let texts = [
        teams(&alert).to_string(),
        slack(&alert).to_string(),
        pagerduty(&alert)[0].to_string(),
        alertmanager(&alert)[0].to_string(),
        mail(&alert).subject,
    ];
    for text in texts {
        assert!(text.contains("TEST, nothing is wrong"), "{text}");
    }
    assert_eq!(alertmanager(&alert)[0]["labels"]["test"], "true");
}

proptest! {
    #[test]
    fn teams_is_never_longer_than_it_may_be(
        summary in ".{0,4000}", serving in ".{0,3000}", label in ".{0,200}", value in "[\u{1}-\u{10ffff}]{0,1500}",
        facts in 0_usize..120, commands in prop::collection::vec(".{0,900}", 0..12),
    ) {
        let mut alert = sample("failed");
        alert.summary = summary;
        alert.serving = serving;
        alert.evidence = vec![Fact::new(&label, value); facts];
        alert.action = Some(crate::alert::Action { text: alert.summary.clone(), commands });
        prop_assert!(teams(&alert).to_string().len() <= MAX);
        let kind = SinkKind::Ntfy { url: url("https://ntfy.example.org/t"), key: None };
        let message = bodies(kind, &alert).remove(0);
        prop_assert!(message["message"].as_str().unwrap().len() <= 4096);
    }
}
