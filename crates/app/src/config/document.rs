//! What is made from the types: the JSON schema, the reference page, and the effective configuration.

use std::fmt::Write as _;

use schemars::generate::SchemaSettings;
use serde_json::Value as Json;

use super::environment::variable;
use super::file::Config;
use super::structure::{Allowed, member, member_names};

/// The JSON schema of the file (draft 2020-12), without references, so that any editor can use it.
pub(crate) fn schema() -> Json {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<Config>().to_value()
}

/// The effective configuration as TOML: the file, the environment over it, and the defaults. It can be used as
/// a file. Secrets are left out: those of sinks and the database's address have to be added, all others stand in files of their own.
pub(crate) fn show(config: &Config) -> String {
    let text = toml::to_string(config);
    let text = text.unwrap_or_else(|error| format!("# it cannot be written as TOML: {error}\n"));
    text + &super::sink::unshown(config)
}

/// The reference page in Markdown: every field with its type, default, variable and meaning.
pub(crate) fn reference() -> String {
    let schema = schema();
    let mut page = String::from(concat!(
        "# Configuration\n\n",
        "<!-- Made from the types in crates/app/src/config/file.rs. Change them, not this page. -->\n\n",
        "One TOML file, the first of: `--config PATH`, `$EVERGRANT_CONFIG`, ",
        "`$XDG_CONFIG_HOME/evergrant/config.toml` (else `~/.config/evergrant/config.toml`), ",
        "`/etc/evergrant/config.toml`. Without a file Evergrant runs with the defaults below.\n\n",
        "A variable of the environment overrides the field beside it; the `NAME` of a chain or provider is ",
        "written in capitals there, with `_` for `-`. Paths in variables are absolute or begin with `~/`. ",
        "`evergrant config check` shows every fault with its line, `evergrant config show` what is in ",
        "effect, and `evergrant config schema` a JSON schema for editors.\n",
    ));
    let is_section =
        |name: &&str| member(&schema, name).is_some_and(|field| Allowed::of(field).table.is_some());
    let top: Vec<_> = member_names(&schema).filter(|name| !is_section(name)).collect();
    section(&mut page, "Top level", None, &schema, &top, &[]);
    for name in member_names(&schema).filter(is_section) {
        let Some(part) = member(&schema, name) else {
            continue;
        };
        let intro = text_of(part);
        let named = part.get("additionalProperties").filter(|schema| schema.is_object());
        let (path, part, intro) = match named {
            Some(named) => (vec![name, "NAME"], named, format!("{intro} {}", text_of(named))),
            None => (vec![name], part, intro),
        };
        let fields: Vec<_> = member_names(part).collect();
        let title = format!("`[{}]`", path.join("."));
        section(&mut page, &title, Some(&intro), part, &fields, &path);
    }
    page
}

fn section(
    page: &mut String,
    title: &str,
    intro: Option<&str>,
    schema: &Json,
    fields: &[&str],
    path: &[&str],
) {
    let mut out = format!("\n## {title}\n\n");
    if let Some(intro) = intro {
        out.push_str(&format!("{intro}\n\n"));
    }
    out.push_str("| field | value | default | variable | meaning |\n| --- | --- | --- | --- | --- |\n");
    let mut sections = Vec::new();
    for field in fields {
        let Some(part) = member(schema, field) else {
            continue;
        };
        let allowed = Allowed::of(part);
        let named = part.get("additionalProperties").filter(|schema| member_names(schema).next().is_some());
        if let Some(named) = named {
            sections.push((vec![*field, "NAME"], format!("{} {}", text_of(part), text_of(named)), named));
            continue;
        }
        let table = allowed.table.filter(|table| !allowed.is_value() && member_names(table).next().is_some());
        if let Some(table) = table {
            sections.push((vec![*field], text_of(part), table));
            continue;
        }
        let default = match part.get("default") {
            None | Some(Json::Null) => "-".to_owned(),
            Some(Json::Object(map)) if map.is_empty() => "-".to_owned(),
            Some(value) => format!("`{value}`"),
        };
        let is_map = Allowed::of(part).table.is_some() && member_names(part).next().is_none();
        let keys: &[&str] =
            if part.get("additionalProperties").is_some() && is_map { &[field, "KEY"] } else { &[field] };
        let row = [
            format!("`{field}`"),
            Allowed::of(part).expected(),
            default,
            format!("`{}`", variable(&[path, keys].concat())),
            text_of(part),
        ];
        let row: Vec<_> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
    page.push_str(&out);
    for (names, intro, table) in sections {
        let path = [path, &names].concat();
        let fields: Vec<_> = member_names(table).collect();
        section(page, &format!("`[{}]`", path.join(".")), Some(&intro), table, &fields, &path);
    }
}

fn text_of(schema: &Json) -> String {
    let text = schema.get("description").and_then(Json::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
