//! What is around requests: the access log, how many connections there may be, and over which addresses they come
//! and go.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;

use evergrant_server::gateway::{AccessLog, Bound, Limits};
use tokio::net::TcpStream;

use super::fixture::{Change, Peer, Rig, soon};

/// Waits until it holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let holds = async {
        while !holds() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    soon(what, holds).await;
}

fn refused(rig: &Rig, id: &str) -> String {
    rig.request("GET /v1/anthropic/v1/nothing", &format!("x-request-id: {id}\r\n"), "")
}

/// What a tool that rotates logs does: the file gets another name, and `SIGHUP` follows.
#[tokio::test]
async fn a_log_that_was_rotated_is_opened_anew_and_loses_no_line() {
    let folder = tempfile::tempdir().unwrap();
    let (log, rotated) = (folder.path().join("log"), folder.path().join("log.1"));
    let rig = Rig::with(Change { access_log: Some(AccessLog::File(log.clone())), ..Change::default() }).await;
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let mut client = rig.client().await;
    client.send(refused(&rig, "before")).await;
    client.answer().await;
    until("the first line", || read(&log).contains(r#""request_id":"before""#)).await;
    fs::rename(&log, &rotated).unwrap();
    rig.gateway.reopen_log();
    client.send(refused(&rig, "behind")).await;
    client.answer().await;
    until("the second line", || read(&log).contains(r#""request_id":"behind""#)).await;
    assert_eq!((read(&rotated).lines().count(), read(&log).lines().count()), (1, 1));
}

/// Nobody reads what the log goes to: requests are answered all the same, and what is lost is counted.
#[tokio::test]
async fn a_log_that_nobody_takes_stops_no_request_and_its_losses_are_counted() {
    const AT_ONCE: usize = 500;
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Held open for reading, and never read.
    let held = File::options().read(true).write(true).open(&pipe).unwrap();
    let rig = Rig::with(Change { access_log: Some(AccessLog::File(pipe)), ..Change::default() }).await;
    let dropped = || {
        let metrics = rig.metrics.text();
        let line =
            metrics.lines().find_map(|line| line.strip_prefix("evergrant_gateway_access_log_dropped_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(dropped(), 0);
    let request = refused(&rig, &"x".repeat(128)).repeat(AT_ONCE);
    let mut client = rig.client().await;
    let answered = async {
        while dropped() == 0 {
            client.send(&request).await;
            for _ in 0..AT_ONCE {
                assert!(client.answer().await.starts_with("HTTP/1.1 404 "));
            }
        }
    };
    soon("a batch that is dropped", answered).await;
    client.send(refused(&rig, "last")).await;
    assert!(client.answer().await.starts_with("HTTP/1.1 404 "));
    drop(held);
}

#[tokio::test]
async fn there_are_no_more_connections_than_the_limit() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let rig = Rig::with(Change { limits, ..Change::default() }).await;
    let request = refused(&rig, "r");
    let last = rig.request("GET /v1/anthropic/v1/nothing", "connection: close\r\n", "");
    let mut clients = [rig.client().await, rig.client().await];
    for client in &mut clients {
        client.send(&request).await;
        client.answer().await;
    }
    rig.client().await.closed().await;
    let [mut stays, goes] = clients;
    stays.send(&request).await;
    assert!(stays.answer().await.starts_with("HTTP/1.1 404 "), "who is connected already is served");
    drop(goes);
    let another = async {
        loop {
            let mut client = rig.client().await;
            // It may be refused while its place is not free yet: then it is closed before or behind the request.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut client.0, last.as_bytes()).await;
            if client.rest().await.is_ok_and(|rest| rest.starts_with(b"HTTP/1.1 404 ")) {
                return;
            }
        }
    };
    soon("a place that is free again", another).await;
}

#[tokio::test]
async fn one_socket_serves_both_families() {
    let bound = Bound::bind("[::]:0".parse().unwrap(), 2).unwrap();
    let port = bound.address().port();
    let rig = Rig::with(Change { bound: Some(bound), threads: 2, ..Change::default() }).await;
    for address in ["127.0.0.1", "[::1]"] {
        let address: SocketAddr = format!("{address}:{port}").parse().unwrap();
        let mut client = Peer(TcpStream::connect(address).await.unwrap());
        client.send(refused(&rig, "r")).await;
        assert!(client.answer().await.starts_with("HTTP/1.1 404 "), "{address}");
    }
}

#[tokio::test]
async fn an_address_of_one_family_is_not_taken_for_the_other() {
    let bound = Bound::bind("[::1]:0".parse().unwrap(), 1).unwrap();
    let port = bound.address().port();
    let _rig = Rig::with(Change { bound: Some(bound), ..Change::default() }).await;
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
    assert!(TcpStream::connect(("::1", port)).await.is_ok());
}
