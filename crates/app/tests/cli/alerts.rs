//! Alerts at real sinks: rehearsed at the command line, and out of a running server.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use serde_json::{Value, json};

use crate::serving::{Server, get};
use crate::support::{Home, shown, standin, wait_until};

const SECRET: &str = "not-a-real-secret-0123456789";

/// Takes everything below `/good`, refuses everything below `/bad`, and echoes what it refuses.
#[derive(Clone, Default)]
pub(crate) struct Sinks(Arc<Mutex<Vec<(String, Value)>>>);

impl Sinks {
    pub(crate) async fn start() -> (Self, String) {
        let sinks = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(take).with_state(sinks.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (sinks, base)
    }

    pub(crate) fn taken(&self) -> Vec<Value> {
        self.0.lock().unwrap().iter().map(|(_, body)| body.clone()).collect()
    }
}

async fn take(State(sinks): State<Sinks>, uri: Uri, body: Bytes) -> (StatusCode, String) {
    if uri.path().starts_with("/bad") {
        return (StatusCode::BAD_REQUEST, format!("no such hook: {uri}"));
    }
    sinks.0.lock().unwrap().push((uri.to_string(), serde_json::from_slice(&body).unwrap()));
    (StatusCode::OK, String::new())
}

fn with_sinks(standin: &evergrant_standin::StandIn, base: &str) -> Home {
    let home = Home::new(standin);
    let sinks = format!(
        "\n[sinks.chat]\nkind = \"slack\"\nurl = \"{base}/good/{SECRET}\"\n\
         [sinks.hook]\nkind = \"webhook\"\nurl_file = \"hook\"\nkey_file = \"key\"\n\
         [sinks.broken]\nkind = \"teams\"\nurl = \"{base}/bad/{SECRET}\"\n"
    );
    let at = |name: &str| home.folder.path().join(name);
    std::fs::write(at("hook"), format!("{base}/good/{SECRET}\n")).unwrap();
    std::fs::write(at("key"), "whsec_bm90LWEtcmVhbC1rZXktbm90LWEtcmVhbC1rZXk=\n").unwrap();
    let text = std::fs::read_to_string(home.config()).unwrap();
    std::fs::write(home.config(), text + &sinks).unwrap();
    home
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_says_what_came_of_it_at_each_sink_and_shows_no_secret() {
    let standin = standin().await;
    let (sinks, base) = Sinks::start().await;
    let home = with_sinks(&standin, &base);
    let fine = home.run(&["alerts", "test", "chat"]);
    assert!(fine.status.success(), "{}", shown(&fine));
    let taken = sinks.taken();
    assert_eq!(taken.len(), 5);
    assert!(
        taken.iter().all(|body| body["text"].as_str().unwrap().contains("TEST, nothing is wrong")),
        "{taken:?}"
    );

    let mut command = home.command(&["alerts", "test", "--json"]);
    let output = command.env("EVERGRANT_LOG__LEVEL", "trace").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
    assert!(!shown(&output).contains(SECRET), "{}", shown(&output));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = said["sent"].as_array().unwrap();
    let of = |sink: &str| rows.iter().filter(|row| row["sink"] == sink).collect::<Vec<_>>();
    assert_eq!((rows.len(), &said["ok"]), (15, &json!(false)));
    assert!(of("hook").iter().all(|row| row["reason"] == "delivered"), "{said}");
    for row in of("broken") {
        assert_eq!(row["reason"], "sink_refused");
        assert!(row["detail"].as_str().unwrap().contains("answers 400: no such hook: "), "{row}");
    }
    let statuses: Vec<_> = of("chat").iter().map(|row| row["status"].clone()).collect();
    assert_eq!(statuses, ["mac_silent", "failed", "stale", "reauth_required", "recovered"]);

    let unknown = home.run(&["alerts", "test", "chats"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(shown(&unknown).contains("there is: broken, chat, hook"), "{}", shown(&unknown));
    let none = Home::new(&standin).run(&["alerts", "test"]);
    assert!(shown(&none).contains("no sink is configured"), "{}", shown(&none));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_chain_cannot_serve_tells_its_sinks() {
    let standin = standin().await;
    let (sinks, base) = Sinks::start().await;
    let home = with_sinks(&standin, &base);
    // Nobody has logged in.
    let server = Server::start(&mut home.command(&["serve"]));
    let base = server.base();
    let of_hook = || -> Vec<Value> {
        let of_it = |body: &Value| {
            body["type"] == "evergrant.alert.open" && body["data"]["condition"] == "not_serving"
        };
        sinks.taken().into_iter().filter(of_it).collect()
    };
    wait_until("the webhook hears of it", Duration::from_secs(120), || !of_hook().is_empty());
    let alert = of_hook().remove(0)["data"].clone();
    assert_eq!((&alert["level"], &alert["test"]), (&json!("red"), &json!(false)));
    assert!(alert["action"]["commands"].as_array().unwrap().contains(&json!("evergrant status")), "{alert}");
    let to_chat = || sinks.taken().iter().any(|body| body["blocks"].is_array());
    wait_until("the chat hears of it", Duration::from_secs(30), to_chat);

    // The sink that takes none is seen wherever somebody looks.
    server.line("reason", "sink_refused");
    let dropped = || {
        let states = home.json(&["status"])["sinks"].clone();
        let of_it = |state: &&Value| state["sink"] == "broken" && state["dropped"].as_u64() > Some(0);
        states.as_array().is_some_and(|states| states.iter().any(|state| of_it(&state)))
    };
    wait_until("it is written down", Duration::from_secs(10), dropped);
    let status = shown(&home.run(&["status"]));
    assert!(status.contains("sink broken: 0 delivered, ") && status.contains("no such hook"), "{status}");
    assert!(!status.contains(SECRET), "{status}");
    let (_, metrics) = get(&format!("{base}/metrics")).await;
    let shows =
        |line: &str| metrics.lines().any(|metric| metric.starts_with(line) && !metric.ends_with(" 0"));
    assert!(shows("evergrant_sink_alerts{sink=\"broken\",state=\"dropped\"}"), "{metrics}");
    assert!(shows("evergrant_sink_alerts{sink=\"chat\",state=\"delivered\"}"), "{metrics}");
}
