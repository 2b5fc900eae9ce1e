//! The runbook has a page for every code, and no page for anything else.

use std::collections::{BTreeMap, BTreeSet};

use evergrant_core::Reason;
use evergrant_core::alert::Condition;

use crate::support::root;

const HEADINGS: [&str; 4] =
    ["## What it means", "## How to confirm", "## What to do", "## How to know it is over"];

/// Every code, with the sentences that its page may open with.
fn codes() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut codes: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for condition in Condition::ALL {
        codes.entry(condition.as_str()).or_default().push(condition.sentence());
    }
    for reason in Reason::ALL {
        codes.entry(reason.as_str()).or_default().push(reason.sentence());
    }
    codes.entry("recovered").or_default().push("An episode of the push track or the grant ended.");
    codes
}

/// What is wrong with a page.
fn faults(code: &str, sentences: &[&str], page: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let opens = |sentence: &&str| page.starts_with(&format!("# `{code}`\n\n> {sentence}\n"));
    if !sentences.iter().any(opens) {
        faults.push(format!("{code}: it does not open with its code and {sentences:?}"));
    }
    let found: Vec<_> = page.lines().filter(|line| line.starts_with("## ")).collect();
    if found != HEADINGS {
        faults.push(format!("{code}: headings {found:?}"));
    }
    for part in page.split("\n## ").skip(1) {
        let text: String = part.lines().skip(1).collect();
        if text.trim().len() < 10 {
            faults.push(format!("{code}: nothing below {:?}", part.lines().next()));
        }
    }
    faults
}

#[test]
fn every_code_has_its_page_and_every_page_its_code() {
    let folder = root().join("docs/runbook");
    let pages: BTreeSet<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".md").map(str::to_owned))
        .filter(|name| name != "README")
        .collect();
    let codes = codes();
    let known: BTreeSet<String> = codes.keys().map(|code| (*code).to_owned()).collect();
    assert_eq!(known.difference(&pages).collect::<Vec<_>>(), [""; 0], "codes without a page");
    assert_eq!(pages.difference(&known).collect::<Vec<_>>(), [""; 0], "pages without a code");
    let index = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let mut found = Vec::new();
    for (code, sentences) in &codes {
        let page = std::fs::read_to_string(folder.join(format!("{code}.md"))).unwrap();
        found.extend(faults(code, sentences, &page));
        for link in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !folder.join(link).exists() {
                found.push(format!("{code}: a link to {link}, which is not there"));
            }
        }
        if !index.contains(&format!("({code}.md)")) {
            found.push(format!("{code} is not in the index"));
        }
    }
    assert_eq!(found, [""; 0]);
}

#[test]
fn what_is_missing_on_a_page_is_found() {
    let whole = format!(
        "# `x`\n\n> It is.\n\n{}",
        HEADINGS.map(|it| format!("{it}\n\nlong enough text\n")).join("\n")
    );
    assert_eq!(faults("x", &["It is."], &whole), [""; 0]);
    for (from, to) in
        [("# `x`", "# x"), ("It is.", "It was."), ("## What to do", "## Act"), ("long enough text", "-")]
    {
        assert!(!faults("x", &["It is."], &whole.replacen(from, to, 1)).is_empty(), "{from}");
    }
}
