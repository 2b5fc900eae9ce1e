//! The environment over the file: `EVERGRANT_` and the path of the field, in capitals, joined by two
//! underscores (`EVERGRANT_CHAINS__CLAUDE__AUTH_FILE`).

use serde_json::Value as Json;

use super::Environment;
use super::fault::{Fault, Faults, Place, suggest};
use super::structure::{Allowed, Tree, member, member_names};

const PREFIX: &str = "EVERGRANT_";
/// Variables with the prefix that are no fields.
const OTHERS: [&str; 3] = ["EVERGRANT_CONFIG", super::vault::KEY_VARIABLE, crate::agent::KEY_VARIABLE];
/// What tests of the real program set; it is suggested to nobody.
const FOR_TESTS: [&str; 1] = [crate::agent::PERIODS_VARIABLE];

/// Writes what the environment says over the tree.
pub(crate) fn overlay(tree: &mut Tree, schema: &Json, env: &Environment, faults: &mut Faults) {
    for (variable, value) in env {
        let Some(rest) = variable.strip_prefix(PREFIX) else {
            continue;
        };
        if OTHERS.contains(&variable.as_str()) || FOR_TESTS.contains(&variable.as_str()) {
            continue;
        }
        let Some((path, found)) = field(rest, schema, &tree.table) else {
            let names = variables(schema);
            let meant = suggest(variable, names.iter().map(String::as_str)).or_else(|| {
                names.iter().map(String::as_str).find(|name| name.ends_with(&format!("_{rest}")))
            });
            let fault = Fault::warning(format!("{variable} is no variable that Evergrant knows"));
            faults.add_elsewhere(fault.maybe_help(meant.map(|meant| format!("did you mean {meant}?"))));
            continue;
        };
        let place = Place::Variable(variable.clone());
        let key = path.last().map_or("", String::as_str);
        match Allowed::of(found).variable(value) {
            Ok(value) => {
                put(&mut tree.table, &path, value);
                for end in 1..path.len() {
                    let keys: Vec<&str> = path[..end].iter().map(String::as_str).collect();
                    if !tree.places.has(&keys) {
                        tree.places.put(&path[..end], place.clone());
                    }
                }
                tree.places.put(&path, place);
            }
            Err(wrong) => faults.add_at(Some(&place), wrong.fault(key)),
        }
    }
}

/// The variable of a field.
pub(crate) fn variable(path: &[&str]) -> String {
    let path: Vec<_> = path.iter().map(|key| key.to_uppercase()).collect();
    format!("{PREFIX}{}", path.join("__"))
}

/// The field that a variable's rest names, and its schema. Names in the file are found whether they have `-`
/// or `_`, since a variable has no hyphen.
fn field<'a>(rest: &str, schema: &'a Json, table: &toml::Table) -> Option<(Vec<String>, &'a Json)> {
    let mut path = Vec::new();
    let mut schema = schema;
    let mut here = Some(table);
    for segment in rest.split("__") {
        let plain = segment.to_lowercase();
        if plain.is_empty() {
            return None;
        }
        let of_table = Allowed::of(schema).table?;
        let fixed = member_names(of_table).next().is_some();
        let written = here.and_then(|table| table.keys().find(|key| key.replace('-', "_") == plain));
        let name = match (fixed, written) {
            (false, Some(written)) => written.clone(),
            (true, _) | (false, None) => plain,
        };
        schema = member(of_table, &name)?;
        here = here.and_then(|table| table.get(&name)).and_then(toml::Value::as_table);
        path.push(name);
    }
    let allowed = Allowed::of(schema);
    allowed.is_value().then_some((path, schema))
}

fn put(table: &mut toml::Table, path: &[String], value: toml::Value) {
    match path {
        [] => {}
        [last] => {
            table.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let entry = table.entry(first.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if !entry.is_table() {
                *entry = toml::Value::Table(toml::Table::new());
            }
            if let Some(inner) = entry.as_table_mut() {
                put(inner, rest, value);
            }
        }
    }
}

/// All variables, with the chain `claude` for all chains, as candidates for suggestions.
fn variables(schema: &Json) -> Vec<String> {
    let mut found: Vec<String> = OTHERS.iter().map(|name| (*name).to_owned()).collect();
    for top in member_names(schema) {
        let Some(section) = member(schema, top) else {
            continue;
        };
        let named = section.get("additionalProperties").filter(|schema| schema.is_object());
        let (path, section) = match named {
            Some(named) => (vec![top, "claude"], named),
            None => (vec![top], section),
        };
        let mut fields = member_names(section).peekable();
        if fields.peek().is_none() {
            found.push(variable(&path));
        }
        for field in fields {
            found.push(variable(&[path.as_slice(), &[field]].concat()));
        }
    }
    found
}
