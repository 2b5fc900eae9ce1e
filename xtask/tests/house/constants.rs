//! The constants of the built-in provider stand in one source file and nowhere else.

use std::fs;
use std::path::{Path, PathBuf};

const HOME: &str = "crates/core/src/provider.rs";
const SEARCHED: [&str; 7] = ["crates", "benches", "xtask", "fuzz", "tests-npm", "tests-python", "deploy"];
const SOURCES: [&str; 8] = ["rs", "toml", "sql", "mjs", "js", "json", "html", "service"];
/// What is nobody's source: fetched, built, or copied from real input.
const SKIPPED: [&str; 3] = ["node_modules", "target", "fixtures"];

/// Constants that nothing else may spell.
const EVERYWHERE: [&str; 8] = [
    "TOKEN_URL",
    "FEDERATION_URL",
    "CLIENT_ID",
    "PROBE_URL",
    "API_BASE",
    "CAPABILITY",
    "FEDERATION_CAPABILITY",
    "TERMS",
];
/// Short ones that tests may spell, to make tokens of the real shape.
const OUTSIDE_TESTS: [&str; 3] = ["ACCESS_PREFIX", "REFRESH_PREFIX", "API_KEY_PREFIX"];

/// All source files below a folder.
pub(crate) fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for path in entries.map(|entry| entry.expect("the folder can be listed").path()) {
            let name = path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
            let ends = path.extension().map(|end| end.to_string_lossy().into_owned());
            if path.is_dir() && !SKIPPED.contains(&name.as_str()) {
                folders.push(path);
            } else if ends.is_some_and(|end| SOURCES.contains(&end.as_str())) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The text without its `#[cfg(test)] mod … { … }`; lines keep their numbers.
pub(crate) fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let (mut pending, mut inside) = (false, false);
    for line in text.lines() {
        if inside {
            inside = line != "}";
        } else if pending && (line.starts_with("mod ") || line.starts_with("pub(crate) mod ")) {
            inside = line.ends_with('{');
            pending = false;
        } else {
            pending = line == "#[cfg(test)]" || pending && line.starts_with("#[");
            kept.push_str(line);
        }
        kept.push('\n');
    }
    kept
}

/// A file that holds nothing but tests.
fn is_test_file(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs")
}

/// `NAME` and value of each string constant in `mod claude { … }`.
fn constants(text: &str) -> Vec<(String, String)> {
    let inside = text.split("\nmod claude {\n").nth(1);
    let inside = inside.and_then(|rest| rest.split("\n}\n").next()).unwrap_or_default();
    let constant = |line: &str| {
        let (name, value) = line.split_once("const ")?.1.split_once(": &str = \"")?;
        Some((name.to_owned(), value.strip_suffix("\";")?.to_owned()))
    };
    inside.lines().filter_map(constant).collect()
}

/// `PATH:LINE: NAME` for each place that spells a constant, and may not.
fn spelled(path: &Path, text: &str, constants: &[(String, String)]) -> Vec<String> {
    let outside = if is_test_file(path) { String::new() } else { without_tests(text) };
    let mut found = Vec::new();
    for (name, value) in constants {
        let searched = if EVERYWHERE.contains(&name.as_str()) {
            text
        } else if OUTSIDE_TESTS.contains(&name.as_str()) {
            &outside
        } else {
            continue;
        };
        for (number, line) in searched.lines().enumerate() {
            if line.contains(value.as_str()) {
                found.push(format!("{}:{}: {name}", path.display(), number + 1));
            }
        }
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

fn ours() -> Vec<(String, String)> {
    constants(&fs::read_to_string(root().join(HOME)).expect("core has its profiles there"))
}

#[test]
fn the_constants_of_the_provider_stand_in_one_file() {
    let constants = ours();
    let mut found = Vec::new();
    for folder in SEARCHED {
        for path in sources(&root().join(folder)) {
            let short = path.strip_prefix(root()).unwrap();
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            if short != Path::new(HOME) {
                found.extend(spelled(short, &text, &constants));
            }
        }
    }
    assert_eq!(found, [""; 0]);
}

#[test]
fn all_of_them_are_known_and_each_is_found() {
    let constants = ours();
    for name in EVERYWHERE.iter().chain(&OUTSIDE_TESTS) {
        let (_, value) = constants.iter().find(|(known, _)| known == name).unwrap();
        let code = format!("// one\nlet x = \"{value}abc\";\n");
        let hit = format!("crates/x/src/a.rs:2: {name}");
        assert!(spelled(Path::new("crates/x/src/a.rs"), &code, &constants).contains(&hit));
        let test = format!("fn a() {{}}\n\n#[cfg(test)]\nmod tests {{\n    let x = \"{value}\";\n}}\n");
        let hits = spelled(Path::new("crates/x/src/a.rs"), &test, &constants);
        let in_tests = spelled(Path::new("crates/x/tests/x/a.rs"), &code, &constants);
        let hit = format!("crates/x/src/a.rs:5: {name}");
        assert_eq!(hits.contains(&hit), EVERYWHERE.contains(name), "{hits:?}");
        assert_eq!(in_tests.is_empty(), OUTSIDE_TESTS.contains(name), "{in_tests:?}");
    }
}

#[test]
fn tests_are_taken_out_and_lines_keep_their_numbers() {
    let text = "a\n#[cfg(test)]\nmod tests {\n    b\n}\nc\n#[cfg(test)]\nmod more;\nd\n";
    let kept = without_tests(text);
    assert_eq!(
        kept.lines().collect::<Vec<_>>(),
        ["a", "#[cfg(test)]", "", "", "", "c", "#[cfg(test)]", "", "d"]
    );
}
