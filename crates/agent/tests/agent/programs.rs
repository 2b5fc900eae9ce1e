//! Small programs that behave as those of macOS and Linux do. Each writes down its arguments, one call a line.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Writes a shell script that is a program.
pub(crate) fn program(folder: &Path, name: &str, body: &str) -> PathBuf {
    let path = folder.join(name);
    let here = folder.display();
    let script = format!("#!/bin/sh\nhere='{here}'\nprintf '%s\\n' \"$*\" >> \"$here/{name}.calls\"\n{body}");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The calls of a program so far.
pub(crate) fn calls(folder: &Path, name: &str) -> Vec<String> {
    let text = fs::read_to_string(folder.join(format!("{name}.calls"))).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// `security find-generic-password -s SERVICE -a ACCOUNT [-w]`: attributes, or the secret, in hex where it holds
/// anything but printable ASCII; 44 without such an item, 36 when locked.
pub(crate) fn security(folder: &Path) -> PathBuf {
    fs::create_dir_all(folder.join("items")).unwrap();
    program(
        folder,
        "security",
        r#"[ "$1" = find-generic-password ] && [ "$2" = -s ] && [ "$4" = -a ] || exit 2
item="$here/items/$3.$5"
[ -f "$here/hangs" ] && sleep 600
[ -f "$item" ] || { echo "security: SecKeychainSearchCopyNext: The specified item could not be found in the keychain." >&2; exit 44; }
if [ "$6" = -w ]; then
  [ -f "$here/locked" ] && { echo "security: SecKeychainItemCopyContent: User interaction is not allowed." >&2; exit 36; }
  if [ "$(LC_ALL=C tr -d ' -~' < "$item" | wc -c)" -eq 0 ]; then cat "$item"; echo
  else od -An -v -tx1 "$item" | tr -d ' \n'; echo; fi
else
  [ -f "$here/locked-whole" ] && exit 36
  date=$(date -u -r "$item" +%Y%m%d%H%M%SZ)
  printf 'keychain: "/Users/x/Library/Keychains/login.keychain-db"\nversion: 512\nclass: "genp"\nattributes:\n'
  printf '    0x00000007 <blob>="%s"\n    "acct"<blob>="%s"\n' "$3" "$5"
  printf '    "cdat"<timedate>=0x32303236303130313030303030305A00  "20260101000000Z\\000"\n'
  printf '    "mdat"<timedate>=0x00  "%s\\000"\n    "svce"<blob>="%s"\n' "$date" "$3"
fi
"#,
    )
}

pub(crate) fn item(folder: &Path, service: &str, account: &str) -> PathBuf {
    folder.join("items").join(format!("{service}.{account}"))
}

/// `launchctl`: `bootout` returns while the job is still there, `bootstrap` fails with 5 until it is gone, and
/// without a GUI session there is no domain.
pub(crate) fn launchctl(folder: &Path) -> PathBuf {
    program(
        folder,
        "launchctl",
        r#"lingering() {
  [ -f "$here/leaving" ] || return 1
  left=$(cat "$here/leaving")
  if [ "$left" -le 0 ]; then rm -f "$here/leaving" "$here/loaded"; return 1; fi
  echo $((left - 1)) > "$here/leaving"
}
case "$1" in
print)
  [ -f "$here/no-session" ] && { echo "Bad request." >&2; echo "Could not find domain for" >&2; exit 112; }
  case "$2" in
  gui/*/*) lingering
    [ -f "$here/loaded" ] || { echo "Could not find service \"dev.evergrant.agent\" in domain for user gui: 501" >&2; exit 113; }
    printf 'gui/501/dev.evergrant.agent = {\n\tactive count = 1\n\tstate = '
    if [ -f "$here/dies" ]; then printf 'spawn scheduled\n}\n'; else printf 'running\n}\n'; fi;;
  *) echo 'com.apple.xpc.launchd.domain.user.501 = {';;
  esac;;
bootout) [ -f "$here/loaded" ] || { echo "Boot-out failed: 3: No such process" >&2; exit 3; }
  echo 3 > "$here/leaving";;
enable) ;;
bootstrap) [ -f "$3" ] || exit 2
  if [ -f "$here/loaded" ] || [ -s "$here/refuse" ]; then
    left=$(cat "$here/refuse" 2>/dev/null || echo 0)
    if [ "$left" -gt 1 ]; then echo $((left - 1)) > "$here/refuse"; else rm -f "$here/refuse"; fi
    echo "Bootstrap failed: 5: Input/output error" >&2; exit 5
  fi
  cp "$3" "$here/loaded";;
*) exit 64;;
esac
"#,
    )
}

/// `systemctl --user …`, with a manager that may not be there.
pub(crate) fn systemctl(folder: &Path) -> PathBuf {
    program(
        folder,
        "systemctl",
        r#"[ "$1" = --user ] || exit 2
shift
unit=$(ls "$here"/home/.config/systemd/user/evergrant-agent.service 2>/dev/null)
[ -f "$here/no-session" ] && { echo "Failed to connect to bus: No medium found" >&2; exit 1; }
case "$1" in
show-environment) echo HOME=/x;;
daemon-reload) if [ -n "$unit" ]; then touch "$here/known"; else rm -f "$here/known"; fi;;
enable) [ -f "$here/known" ] || exit 1; touch "$here/enabled";;
restart) [ -f "$here/known" ] || exit 1; [ -f "$here/dies" ] || touch "$here/active";;
disable) rm -f "$here/enabled" "$here/active";;
show) if [ -f "$here/known" ]; then echo LoadState=loaded; else echo LoadState=not-found; fi
  if [ -f "$here/active" ]; then echo ActiveState=active; else echo ActiveState=inactive; fi;;
*) exit 64;;
esac
"#,
    )
}

pub(crate) fn loginctl(folder: &Path) -> PathBuf {
    program(
        folder,
        "loginctl",
        r#"case "$1" in
show-user) if [ -f "$here/lingers" ]; then echo yes; else echo no; fi;;
enable-linger) touch "$here/lingers";;
*) exit 64;;
esac
"#,
    )
}
