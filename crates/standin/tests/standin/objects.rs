//! Batches and files: made, found by their makers alone, and gone when they were deleted.

use evergrant_standin::{ObjectRules, Reply, Settings};
use serde_json::{Value, json};

use crate::client::{Bench, JSON, json};

const VERSION: (&str, &str) = ("anthropic-version", "2023-06-01");
const ONE: (&str, &str) = ("x-api-key", "key-1");
const OTHER: (&str, &str) = ("x-api-key", "key-2");

fn bench() -> Bench {
    Bench::new(Settings { api_keys: vec!["key-1".into(), "key-2".into()], ..Settings::default() })
}

fn made(bench: &mut Bench, who: (&str, &str), requests: &Value) -> Reply {
    let body = json!({ "requests": requests }).to_string();
    bench.call("POST", "/v1/messages/batches", &[who, VERSION, JSON], &body)
}

fn requests() -> Value {
    json!([
        {"custom_id": "a", "params": {"model": "m", "max_tokens": 1, "messages": []}},
        {"custom_id": "b", "params": {"model": "m", "messages": []}},
    ])
}

fn get(bench: &mut Bench, who: (&str, &str), path: &str) -> Reply {
    bench.call("GET", path, &[who, VERSION, ("host", "h:1")], "")
}

#[test]
fn a_batch_goes_on_until_its_time_has_come() {
    let mut bench = bench();
    bench.engine.settings_mut().objects.batch_secs = 60;
    let batch = json(&made(&mut bench, ONE, &requests()));
    let path = format!("/v1/messages/batches/{}", batch["id"].as_str().unwrap());
    assert_eq!((&batch["processing_status"], &batch["results_url"]), (&json!("in_progress"), &Value::Null));
    assert_eq!(batch["request_counts"]["processing"], 2);
    let results = format!("{path}/results");
    assert_eq!(get(&mut bench, ONE, &results).status, 404);
    assert_eq!(bench.call("DELETE", &path, &[ONE, VERSION], "").status, 400);

    bench.pass(60);
    let batch = json(&get(&mut bench, ONE, &path));
    assert_eq!(batch["processing_status"], "ended");
    assert_eq!(batch["results_url"], format!("http://h:1{results}"));
    let counts = json!({"processing": 0, "succeeded": 1, "errored": 1, "canceled": 0, "expired": 0});
    assert_eq!(batch["request_counts"], counts);
    let reply = get(&mut bench, ONE, &results);
    assert_eq!(reply.header("content-type"), Some("application/x-jsonl"));
    let text = String::from_utf8(reply.bytes().to_vec()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = lines.iter().map(|line| (&line["custom_id"], &line["result"]["type"])).collect();
    assert_eq!(kinds, [(&json!("a"), &json!("succeeded")), (&json!("b"), &json!("errored"))]);
    assert_eq!(lines[1]["result"]["error"]["error"]["message"], "max_tokens: Field required");

    assert_eq!(bench.call("POST", &format!("{path}/cancel"), &[ONE, VERSION], "").status, 400);
    assert_eq!(json(&bench.call("DELETE", &path, &[ONE, VERSION], ""))["type"], "message_batch_deleted");
    assert_eq!(get(&mut bench, ONE, &path).status, 404);
}

#[test]
fn a_canceled_batch_has_canceled_results() {
    let mut bench = bench();
    bench.engine.settings_mut().objects.batch_secs = 60;
    let batch = json(&made(&mut bench, ONE, &requests()));
    let path = format!("/v1/messages/batches/{}", batch["id"].as_str().unwrap());
    let canceled = json(&bench.call("POST", &format!("{path}/cancel"), &[ONE, VERSION], ""));
    assert_eq!(canceled["processing_status"], "canceling");
    let ended = json(&get(&mut bench, ONE, &path));
    assert_eq!(
        (&ended["processing_status"], &ended["request_counts"]["canceled"]),
        (&json!("ended"), &json!(2))
    );
    let text = get(&mut bench, ONE, &format!("{path}/results")).bytes();
    assert_eq!(text.windows(8).filter(|here| here == b"canceled").count(), 2);
}

#[test]
fn a_batch_has_requests_with_ids_of_their_own() {
    let params = json!({});
    for (wrong, said) in [
        (json!([]), "requests"),
        (json!([{"params": params}]), "requests.0.custom_id"),
        (json!([{"custom_id": "a"}]), "requests.0.params"),
        (json!([{"custom_id": "a", "params": params}, {"custom_id": "a", "params": params}]), "twice"),
    ] {
        let refused = made(&mut bench(), ONE, &wrong);
        let message = json(&refused)["error"]["message"].as_str().unwrap().to_owned();
        assert!(refused.status == 400 && message.contains(said), "{message}");
    }
    let mut bench = bench();
    assert_eq!(bench.call("POST", "/v1/messages/batches", &[ONE, JSON], "{}").status, 400, "no version");
    assert_eq!(bench.call("POST", "/v1/messages/batches", &[ONE, VERSION], "{}").status, 400, "no type");
    assert_eq!(bench.call("PUT", "/v1/messages/batches", &[ONE, VERSION], "").status, 405);
    assert_eq!(get(&mut bench, ONE, "/v1/messages/batches-of-others").status, 404);
}

#[test]
fn lists_go_page_by_page_the_newest_first() {
    let mut bench = bench();
    bench.engine.settings_mut().objects.kept = 4;
    let mut ids: Vec<Value> =
        (0..5).map(|_| json(&made(&mut bench, ONE, &requests()))["id"].clone()).skip(1).collect();
    ids.reverse();
    let mut page = |query: &str| {
        let page = json(&get(&mut bench, ONE, &format!("/v1/messages/batches{query}")));
        let here: Vec<_> = page["data"].as_array().unwrap().iter().map(|batch| batch["id"].clone()).collect();
        (here, page["has_more"].as_bool().unwrap(), page["last_id"].as_str().map(str::to_owned))
    };
    let (all, more, _) = page("");
    assert_eq!((all.as_slice(), more), (&ids[..], false), "the oldest of five is not kept");
    let (first, more, last) = page("?limit=3");
    assert_eq!((first.as_slice(), more), (&ids[..3], true));
    let (rest, more, last) = page(&format!("?limit=3&after_id={}", last.unwrap()));
    assert_eq!((rest.as_slice(), more), (&ids[3..], false));
    let (before, more, _) = page(&format!("?limit=2&before_id={}", last.unwrap()));
    assert_eq!((before.as_slice(), more), (&ids[1..3], true));
    for query in ["?limit=0", "?after_id=x", "?after_id=x&before_id=y"] {
        assert_eq!(get(&mut bench, ONE, &format!("/v1/messages/batches{query}")).status, 400, "{query}");
    }
}

fn upload(bench: &mut Bench, who: (&str, &str), name: &str, content: &str) -> Reply {
    let form = format!(
        "--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
         content-type: text/plain\r\n\r\n{content}\r\n--b--\r\n"
    );
    bench.call(
        "POST",
        "/v1/files",
        &[who, VERSION, ("content-type", "multipart/form-data; boundary=b")],
        &form,
    )
}

#[test]
fn a_file_is_what_was_uploaded() {
    let mut bench = bench();
    let file = json(&upload(&mut bench, ONE, "folder/notes.txt", "one\r\ntwo"));
    let described = [&file["filename"], &file["mime_type"], &file["size_bytes"], &file["type"]];
    assert_eq!(described, [&json!("notes.txt"), &json!("text/plain"), &json!(8), &json!("file")]);
    let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
    assert_eq!(json(&get(&mut bench, ONE, &path)), file);
    let content = format!("{path}/content");
    assert_eq!(&get(&mut bench, ONE, &content).bytes()[..], b"one\r\ntwo");
    bench.engine.settings_mut().objects =
        ObjectRules { uploads_downloadable: false, ..ObjectRules::default() };
    assert_eq!(get(&mut bench, ONE, &content).status, 400);
    assert_eq!(json(&get(&mut bench, ONE, "/v1/files"))["data"][0]["downloadable"], false);
    assert_eq!(json(&bench.call("DELETE", &path, &[ONE, VERSION], ""))["type"], "file_deleted");
    assert_eq!(get(&mut bench, ONE, &path).status, 404);

    assert_eq!(bench.call("POST", "/v1/files", &[ONE, VERSION, JSON], "{}").status, 400);
    assert_eq!(bench.call("GET", "/v1/files", &[ONE], "").status, 400, "no version");
}

#[test]
fn nobody_finds_what_another_made() {
    let mut bench = bench();
    let login = bench.login();
    let bearer = format!("Bearer {}", login.access_token);
    let account = ("authorization", bearer.as_str());
    let again = format!("Bearer {}", bench.login().access_token);
    let batch = json(&made(&mut bench, ONE, &requests()))["id"].as_str().unwrap().to_owned();
    let file = json(&upload(&mut bench, account, "a", "x"))["id"].as_str().unwrap().to_owned();
    for (who, batches, files) in
        [(ONE, 1, 0), (OTHER, 0, 0), (account, 0, 1), (("authorization", again.as_str()), 0, 1)]
    {
        let count = |reply: Reply| json(&reply)["data"].as_array().unwrap().len();
        assert_eq!(count(get(&mut bench, who, "/v1/messages/batches")), batches);
        assert_eq!(count(get(&mut bench, who, "/v1/files")), files);
        let status = |found: usize| if found == 1 { 200 } else { 404 };
        assert_eq!(get(&mut bench, who, &format!("/v1/messages/batches/{batch}")).status, status(batches));
        assert_eq!(get(&mut bench, who, &format!("/v1/files/{file}")).status, status(files));
    }
    assert_eq!(bench.call("GET", "/v1/files", &[VERSION], "").status, 401);
}
