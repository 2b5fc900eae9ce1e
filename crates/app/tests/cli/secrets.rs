//! A canary in every secret is in no output, log, metric or file that is not the vault.

use std::io::{Read, Write};
use std::time::Duration;

use evergrant_standin::{Fault, FaultTarget};
use rustix::process::Signal;

use crate::gateway::{FALLBACK, caller_key, provider};
use crate::support::{Home, Running, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn no_output_holds_a_token() {
    let standin = provider().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    let mut seen = Vec::new();
    let mut secrets = Vec::new();
    let mut run = |args: &[&str], format: &str| {
        let mut command = home.command(args);
        command
            .env("EVERGRANT_LOG__LEVEL", "trace")
            .env("EVERGRANT_LOG__FORMAT", format)
            .env("RUST_BACKTRACE", "1");
        let output = command.output().unwrap();
        seen.push((format!("{args:?} {format}"), [output.stdout, output.stderr].concat()));
        for member in ["accessToken", "refreshToken"] {
            secrets.push(home.file()["claudeAiOauth"][member].as_str().unwrap().to_owned());
        }
    };
    for format in ["text", "json"] {
        for fault in
            ["empty_500", "truncated_json", "cut_body", "blocked_403", "redirect_302", "invalid_client"]
        {
            standin.engine().push_fault(FaultTarget::Token, Fault::named(fault).unwrap(), 1);
            run(&["refresh", "--force"], format);
            home.log_in(&standin);
        }
        for args in [
            &["refresh", "--force"][..],
            &["refresh", "--force", "--json"],
            &["probe"],
            &["status"],
            &["status", "--json"],
            &["config", "show"],
            &["config", "check"],
            &["import", "config.toml"],
        ] {
            run(args, format);
        }
    }
    let key = caller_key(&home);
    seen.push(("serve".into(), serve_output(&home, &key)));
    secrets.extend([key, FALLBACK.into()]);
    // Every part of a token that is long enough to be one: its last 24 characters.
    for secret in &secrets {
        let tail = &secret[secret.len() - 24..];
        for (what, bytes) in &seen {
            assert!(!String::from_utf8_lossy(bytes).contains(tail), "{what} shows a token");
        }
    }
    let database = std::fs::read_dir(home.folder.path().join(".local/state/evergrant")).unwrap();
    for entry in database {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            !secrets.iter().any(|secret| text.contains(&secret[secret.len() - 24..])),
            "{}",
            path.display()
        );
    }
    assert!(secrets.len() > 20);
}

/// What a server prints at trace level while it renews and forwards, its access log, metrics and answers.
fn serve_output(home: &Home, key: &str) -> Vec<u8> {
    let mut command = home.command(&["serve"]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    command.env("EVERGRANT_LOG__LEVEL", "trace").env("EVERGRANT_HTTP__LISTEN", address.to_string());
    command.env("EVERGRANT_GATEWAY__ACCESS_LOG", "-").env("ANTHROPIC_FALLBACK_KEY", FALLBACK);
    #[cfg(feature = "otel")]
    let collector = crate::traces::Collector::of(&mut command);
    let mut server = Running::start(&mut command);
    let (stdout, stderr) = (server.0.stdout.take().unwrap(), server.0.stderr.take().unwrap());
    let readers = [to_end(stdout), to_end(stderr)];
    let mut seen = Vec::new();
    let ask = |head: &str, body: &str| {
        let mut stream = std::net::TcpStream::connect(address).ok()?;
        let length = body.len();
        let request = format!("{head}host: x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        Some(answer)
    };
    let metrics = || ask("GET /metrics HTTP/1.1\r\n", "");
    wait_until("the chain is in the metrics", Duration::from_secs(20), || {
        let shown = metrics().unwrap_or_default();
        String::from_utf8_lossy(&shown).contains("evergrant_generation{chain=\"claude\"}")
    });
    let body = r#"{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"x"}]}"#;
    let forward = |header: &str, value: &str| {
        ask(&format!("POST /v1/anthropic/v1/messages HTTP/1.1\r\n{header}: {value}\r\n"), body).unwrap()
    };
    let status = |answer: &[u8]| String::from_utf8_lossy(answer)[9..12].to_owned();
    seen.push(forward("x-api-key", key));
    assert_eq!(status(&seen[0]), "200");
    for (header, value) in [
        ("authorization", format!("Bearer {}", home.refresh_token())),
        ("x-api-key", FALLBACK.to_owned()),
        ("x-cm-api-key", format!("{key}x")),
    ] {
        seen.push(forward(header, &value));
        assert_eq!(status(seen.last().unwrap()), "401");
    }
    let aside = home.folder.path().join("aside.json");
    std::fs::rename(&home.auth_file, &aside).unwrap();
    wait_until("the fallback key serves", Duration::from_secs(20), || {
        seen.push(forward("x-api-key", key));
        let metrics = metrics().unwrap();
        String::from_utf8_lossy(&metrics).contains("source=\"fallback\"")
    });
    std::fs::rename(&aside, &home.auth_file).unwrap();
    seen.extend(metrics());
    home.force();
    server.signal(Signal::TERM);
    server.0.wait().unwrap();
    #[cfg(feature = "otel")]
    {
        seen.push(collector.got());
        assert!(!seen.last().unwrap().is_empty(), "the traces are read");
    }
    let printed = readers.map(|reader| reader.join().unwrap());
    assert!(
        String::from_utf8_lossy(&printed[0]).contains(r#""source":"fallback""#),
        "the access log is read"
    );
    [seen.concat(), printed.concat()].concat()
}

fn to_end(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut output = Vec::new();
        from.read_to_end(&mut output).unwrap();
        output
    })
}
