//! The provider's official SDK for Python against the stand-in: what it takes for the real API is good enough for us.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use evergrant_standin::{Settings, StandIn};
use tokio::process::Command;
use tokio::time::timeout;

/// The pauses of the SDK's own retries add up to a few seconds.
const BOUND: Duration = Duration::from_secs(90);

#[tokio::test]
async fn the_official_sdk_finds_what_it_expects() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = root.join("target/tests-python/bin/python");
    assert!(
        python.exists(),
        "{} is missing: run `cargo xtask test` once, which installs it",
        python.display()
    );
    let key = "a-key-of-the-stand-in";
    let standin =
        StandIn::start(Settings { api_keys: vec![key.into()], ..Settings::default() }).await.unwrap();
    let mut command = Command::new(python);
    // Nothing of the caller's: a key, a proxy or a profile of his would change what the SDK does.
    command.env_clear().arg("-I").arg(root.join("tests-python/sdk.py")).stdin(Stdio::null());
    command.env("SDK_BASE_URL", standin.url()).env("SDK_API_KEY", key).env("SDK_STAND_IN", standin.url());
    let running = command.kill_on_drop(true).output();
    let done = timeout(BOUND, running).await.expect("the SDK is done in time").unwrap();
    let said = [done.stdout, done.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(done.status.success(), "{said}");
    assert_eq!(said.matches(": held").count(), 13, "{said}");
    let seen = standin.engine().sightings();
    assert!(seen.iter().any(|call| call.target.starts_with("/v1/files")), "it asked this stand-in");
}
