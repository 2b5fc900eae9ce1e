//! A canary in every secret is in no output, log, metric or file that is not the vault.

use std::io::{Read, Write};
use std::time::Duration;

use evergrant_standin::{Fault, FaultTarget};
use rustix::process::Signal;

use crate::support::{Home, Running, standin, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn no_output_holds_a_token() {
    let standin = standin().await;
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
    seen.push(("serve".into(), serve_output(&home)));
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

/// What a server prints at trace level while it renews, and its metrics.
fn serve_output(home: &Home) -> Vec<u8> {
    let mut command = home.command(&["serve"]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    command.env("EVERGRANT_LOG__LEVEL", "trace").env("EVERGRANT_HTTP__LISTEN", address.to_string());
    let mut server = Running::start(&mut command);
    let mut stderr = server.0.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut output = Vec::new();
        stderr.read_to_end(&mut output).unwrap();
        output
    });
    let mut metrics = Vec::new();
    wait_until("the chain is in the metrics", Duration::from_secs(20), || {
        metrics.clear();
        let Ok(mut stream) = std::net::TcpStream::connect(address) else { return false };
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        stream.read_to_end(&mut metrics).unwrap();
        String::from_utf8_lossy(&metrics).contains("evergrant_generation{chain=\"claude\"}")
    });
    home.force();
    server.signal(Signal::TERM);
    server.0.wait().unwrap();
    [reader.join().unwrap(), metrics].concat()
}
