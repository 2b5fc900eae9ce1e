//! What the system under the auth file may do: other owners, missing rights, mounts, full disks.
//!
//! Root reads and writes everything, so that rights are tested as another user; mounts live in a mount namespace
//! of their own. Both need root, or a user namespace that gives it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::{BINARY, Home, lives, shown, standin};

/// Nobody's user id, whom the tests run the binary as.
const NOBODY: u32 = 65_534;

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// Runs a shell script with the binary as `$EVERGRANT`, in a mount namespace of its own.
fn in_mount_namespace(home: &Home, script: &str) -> Output {
    let mut command = Command::new("unshare");
    home.dress(&mut command);
    if is_root() {
        command.arg("-m");
    } else {
        command.args(["--user", "--map-root-user", "-m"]);
    }
    command.args(["sh", "-ec", script]).env("EVERGRANT", BINARY).env("FILE", &home.auth_file);
    command.env("ROOM", home.folder.path());
    command.output().unwrap()
}

/// The last JSON report that a script printed.
fn last_report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let mut reports = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    reports.by_ref().filter_map(Result::ok).last().unwrap_or_else(|| panic!("{}", shown(output)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_a_mount_point_is_rewritten_in_place() {
    let standin = standin().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    let script = r#"
        mkdir "$ROOM/real"; mv "$FILE" "$ROOM/real/auth.json"; : > "$FILE"
        mount --bind "$ROOM/real/auth.json" "$FILE"
        "$EVERGRANT" config check > /dev/null 2> "$ROOM/check"
        "$EVERGRANT" refresh --json
        "$EVERGRANT" refresh --force --json
        "$EVERGRANT" refresh --force --json
    "#;
    let output = in_mount_namespace(&home, script);
    assert!(output.status.success(), "{}", shown(&output));
    let report = last_report(&output);
    assert_eq!((&report["refreshed"], &report["generation"]), (&json!(true), &json!(3)));
    let real = fs::read(home.folder.path().join("real/auth.json")).unwrap();
    let real: Value = serde_json::from_slice(&real).unwrap();
    assert!(lives(&standin, real["claudeAiOauth"]["refreshToken"].as_str().unwrap()));
    assert!(!home.beside_file().exists(), "nothing lies beside a mounted file");
    let check = fs::read_to_string(home.folder.path().join("check")).unwrap();
    assert!(check.contains("mount the folder"), "{check}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_in_place_that_is_cut_short_is_begun_again() {
    let standin = standin().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    // The crash falls between the receipt and the file; then a half-written file is what the next one finds.
    let script = r#"
        mkdir "$ROOM/real"; mv "$FILE" "$ROOM/real/auth.json"; : > "$FILE"
        mount --bind "$ROOM/real/auth.json" "$FILE"
        "$EVERGRANT" refresh --json
        EVERGRANT_CRASH_AT=file_replaced "$EVERGRANT" refresh --force --json || true
        printf '{"claudeAiOauth":{"accessTok' > "$FILE"
        "$EVERGRANT" refresh --json
        "$EVERGRANT" refresh --force --json
    "#;
    let output = in_mount_namespace(&home, script);
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(last_report(&output)["generation"], json!(3), "{}", shown(&output));
    assert_eq!(standin.engine().counters().families_revoked_by_reuse, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_spends_nothing_and_heals() {
    let standin = standin().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    let script = r#"
        cp "$FILE" "$ROOM/login.json"
        mount -t tmpfs -o size=96k tmpfs "$ROOM/grant"
        cp "$ROOM/login.json" "$FILE"
        "$EVERGRANT" refresh --json
        dd if=/dev/zero of="$ROOM/grant/ballast" bs=4k 2>/dev/null || true
        "$EVERGRANT" refresh --force --json || true
        cp "$FILE" "$ROOM/while-full.json"
    "#;
    let output = in_mount_namespace(&home, script);
    assert!(output.status.success(), "{}", shown(&output));
    let report = last_report(&output);
    assert_eq!(report["error"], json!("vault_unwritable"), "{}", shown(&output));
    assert_eq!(report["token_valid"], json!(true), "the access token is served on");
    assert!(report["detail"].as_str().unwrap().contains("No space left"), "{report}");
    assert_eq!(standin.engine().exchanges().len(), 0, "nothing was sent");
    let login = fs::read(home.folder.path().join("login.json")).unwrap();
    assert_eq!(fs::read(home.folder.path().join("while-full.json")).unwrap(), login, "the file is untouched");
}

/// The disk fills up while the answer is under way: the receipt's room was reserved, so the answer is kept, and
/// it is committed when there is room again.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_during_an_exchange_costs_no_token() {
    use evergrant_standin::{Fault, FaultTarget};
    let standin = standin().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    standin.engine().push_fault(FaultTarget::Token, Fault::DelayAfter { millis: 1_500 }, 1);
    let script = r#"
        cp "$FILE" "$ROOM/login.json"
        mount -t tmpfs -o size=192k tmpfs "$ROOM/grant"
        cp "$ROOM/login.json" "$FILE"
        "$EVERGRANT" refresh --json
        "$EVERGRANT" refresh --force --json > "$ROOM/during.json" &
        sleep 0.7
        dd if=/dev/zero of="$ROOM/grant/ballast" bs=4k 2>/dev/null || true
        sleep 1.3
        rm "$ROOM/grant/ballast"
        wait || true
        "$EVERGRANT" refresh --json
        cp "$FILE" "$ROOM/after.json"
    "#;
    let output = in_mount_namespace(&home, script);
    assert!(output.status.success(), "{}", shown(&output));
    let report = last_report(&output);
    assert_eq!((&report["error"], &report["generation"]), (&json!(null), &json!(2)), "{}", shown(&output));
    let after = fs::read(home.folder.path().join("after.json")).unwrap();
    let after: Value = serde_json::from_slice(&after).unwrap();
    assert!(lives(&standin, after["claudeAiOauth"]["refreshToken"].as_str().unwrap()), "the answer is lost");
}

/// Runs the binary as another user, whose rights count.
fn as_nobody(home: &Home, args: &[&str]) -> Value {
    let mut command = Command::new("setpriv");
    home.dress(&mut command);
    command.args(["--reuid", &NOBODY.to_string(), "--regid", &NOBODY.to_string(), "--clear-groups", BINARY]);
    let output = command.args(args).arg("--json").output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", shown(&output)))
}

fn give_to_nobody(path: &std::path::Path) {
    std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_missing_are_said_and_nothing_is_spent() {
    if !is_root() {
        // Another user can only be had from root; the prerequisites say so.
        return;
    }
    let standin = standin().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    let grant = home.auth_file.parent().unwrap().to_owned();
    give_to_nobody(home.folder.path());
    // Unreadable: somebody else's file.
    fs::set_permissions(&home.auth_file, fs::Permissions::from_mode(0o600)).unwrap();
    give_to_nobody(&grant);
    let report = as_nobody(&home, &["refresh"]);
    assert_eq!(report["error"], json!("auth_file_malformed"), "{report}");
    assert!(report["detail"].as_str().unwrap().contains("Permission denied"), "{report}");
    // Readable, but the folder is not ours to write.
    give_to_nobody(&home.auth_file);
    assert_eq!(as_nobody(&home, &["refresh"])["error"], json!(null));
    fs::set_permissions(&grant, fs::Permissions::from_mode(0o555)).unwrap();
    let report = as_nobody(&home, &["refresh", "--force"]);
    assert_eq!(report["error"], json!("vault_unwritable"), "{report}");
    assert_eq!(report["token_valid"], json!(true), "{report}");
    assert_eq!(standin.engine().exchanges().len(), 0, "nothing was sent");
    // And a folder where the lock cannot even be made.
    fs::remove_dir_all(home.beside_file()).unwrap();
    assert_eq!(as_nobody(&home, &["refresh", "--force"])["error"], json!("vault_unwritable"));
    fs::set_permissions(&grant, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(as_nobody(&home, &["refresh", "--force"])["refreshed"], json!(true));
    // Readable through its group only: its owner could not be kept, so nothing is sent.
    std::os::unix::fs::chown(&home.auth_file, Some(0), Some(NOBODY)).unwrap();
    fs::set_permissions(&home.auth_file, fs::Permissions::from_mode(0o640)).unwrap();
    let sent = standin.engine().exchanges().len();
    assert_eq!(as_nobody(&home, &["refresh", "--force"])["error"], json!("vault_unwritable"));
    assert_eq!(standin.engine().exchanges().len(), sent, "nothing was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_owner_is_kept() {
    if !is_root() {
        return;
    }
    let standin = standin().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    std::os::unix::fs::chown(&home.auth_file, Some(1234), Some(4321)).unwrap();
    fs::set_permissions(&home.auth_file, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(home.force()["refreshed"], json!(true));
    let meta = fs::metadata(&home.auth_file).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1234, 4321, 0o640));
    let folder = fs::metadata(home.beside_file()).unwrap();
    assert_eq!(folder.mode() & 0o777, 0o700);
}
