//! Cards for Teams in a real browser, light and dark. `EVERGRANT_PICTURES=docs/alerts cargo test -p evergrant-core
//! --test alerts pictures` draws the pictures of the documentation anew.

use std::path::{Path, PathBuf};
use std::process::Command;

use evergrant_core::alert::Alert;
use serde_json::Value;

use crate::support::{alerts, more_alerts, node, root, teams};

const WIDTH: u32 = 1200;

fn page(alert: &Alert, folder: &Path) -> PathBuf {
    let message = folder.join("message.json");
    std::fs::write(&message, teams(alert).to_string()).unwrap();
    let page = folder.join("page.html");
    std::fs::write(&page, node("cards.mjs", &["page", message.to_str().unwrap()])).unwrap();
    page
}

fn chromium(folder: &Path, arguments: &[&str], page: &Path) -> Vec<u8> {
    let profile = folder.join("profile");
    let mut command = Command::new("chromium");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    ]);
    command.args(["--no-first-run", "--disable-background-networking", "--disable-component-update"]);
    command.arg(format!("--user-data-dir={}", profile.display())).args(arguments);
    command.arg(format!("file://{}", page.display())).env("HOME", folder);
    let output = command.output().expect("chromium is there: `cargo xtask test` brings it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// What the page says of itself: its height, and how many links a value has become.
fn measured(page: &Path, folder: &Path) -> (u64, u64) {
    let dom = String::from_utf8(chromium(folder, &["--window-size=1200,800", "--dump-dom"], page)).unwrap();
    let title = dom.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next()).unwrap();
    let said: Value = serde_json::from_str(title).unwrap_or_else(|_| panic!("the card is not drawn: {dom}"));
    (said["height"].as_u64().unwrap(), said["links"].as_u64().unwrap())
}

/// Width and height of a PNG.
fn size(png: &[u8]) -> (u32, u32) {
    assert_eq!(&png[1..4], b"PNG");
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

#[test]
fn every_status_is_drawn_light_and_dark() {
    let folder = tempfile::tempdir().unwrap();
    for alert in alerts() {
        let page = page(&alert, folder.path());
        let (height, links) = measured(&page, folder.path());
        assert_eq!(links, 0, "{}", alert.status);
        let picture = folder.path().join(format!("{}.png", alert.status));
        let arguments =
            [format!("--window-size={WIDTH},{height}"), format!("--screenshot={}", picture.display())];
        chromium(folder.path(), &[&arguments[0], &arguments[1]], &page);
        let png = std::fs::read(&picture).unwrap();
        assert_eq!(size(&png), (WIDTH, u32::try_from(height).unwrap()));
        // A blank one of this size is some 5 KB.
        assert!(png.len() > 20_000, "{}: {} bytes", alert.status, png.len());
        if let Some(folder) = std::env::var_os("EVERGRANT_PICTURES") {
            let kept = root().join(folder);
            std::fs::create_dir_all(&kept).unwrap();
            std::fs::write(kept.join(format!("{}.png", alert.status)), &png).unwrap();
        }
    }
}

#[test]
fn no_value_becomes_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let hostile = more_alerts().pop().unwrap();
    assert!(hostile.evidence[0].value.contains("evil.example"));
    let (height, links) = measured(&page(&hostile, folder.path()), folder.path());
    assert_eq!(links, 0);
    assert!(height > 200);
}
