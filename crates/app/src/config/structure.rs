//! The file against the schema: unknown keys, wrong types, words and numbers out of range. What is faulty is
//! left out of the tree, so that the rest can still be checked.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Faults, Place, suggest};

/// The sound part of the configuration, and where each part of it came from.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// The values.
    pub(crate) table: toml::Table,
    /// Their places, and those of the tables that hold them, by [`Places`]' paths.
    pub(crate) places: Places,
}

/// Where each value came from, by its keys.
#[derive(Debug, Default)]
pub(crate) struct Places(BTreeMap<Vec<String>, Place>);

impl Places {
    /// Where the value with these keys came from; of a key that is not there, where its table is.
    pub(crate) fn of(&self, keys: &[&str]) -> Option<&Place> {
        (1..=keys.len()).rev().find_map(|end| self.0.get(&owned(&keys[..end])))
    }

    /// The value itself is there.
    pub(crate) fn has(&self, keys: &[&str]) -> bool {
        self.0.contains_key(&owned(keys))
    }

    /// Remembers a place.
    pub(crate) fn put(&mut self, keys: &[String], place: Place) {
        self.0.insert(keys.to_vec(), place);
    }
}

fn owned(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

/// Reads the text and keeps what is sound; `None`: it is not TOML, and nothing else can be said of it.
pub(crate) fn parse(text: &str, schema: &Json, faults: &mut Faults) -> Option<Tree> {
    let mut tree = Tree::default();
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let place = error.span().map(Place::File);
        let message = format!("this is not TOML: {}", error.message().replace('\n', ", "));
        faults.add_at(place.as_ref(), Fault::error(message));
    }
    if !errors.is_empty() {
        return None;
    }
    let mut walk = Walk { root: schema, faults, places: &mut tree.places };
    tree.table = walk.table(document.get_ref(), schema, &mut Vec::new());
    Some(tree)
}

struct Walk<'a> {
    root: &'a Json,
    faults: &'a mut Faults,
    places: &'a mut Places,
}

impl Walk<'_> {
    fn table(&mut self, table: &DeTable<'_>, schema: &Json, path: &mut Vec<String>) -> toml::Table {
        let mut sound = toml::Table::new();
        for (key, value) in table.iter() {
            let name = key.get_ref().to_string();
            let place = Place::File(key.span());
            let Some(member) = member(schema, &name) else {
                let fault = unknown_key(self.root, schema, &name, path);
                self.faults.add_at(Some(&place), fault);
                continue;
            };
            path.push(name.clone());
            let is_table = matches!(value.get_ref(), DeValue::Table(_));
            let shown = if is_table { place } else { Place::File(value.span()) };
            self.places.put(path, shown);
            if let Some(value) = self.value(value, member, path) {
                sound.insert(name, value);
            }
            path.pop();
        }
        sound
    }

    fn value(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        schema: &Json,
        path: &mut Vec<String>,
    ) -> Option<toml::Value> {
        let allowed = Allowed::of(schema);
        let checked = match value.get_ref() {
            DeValue::Table(table) => match allowed.table {
                // An empty one is none of several words, and no table of one member.
                Some(_) if table.is_empty() && allowed.is_value() => Err(allowed.wrong("an empty table")),
                Some(schema) => {
                    let sound = self.table(table, schema, path);
                    let lost = sound.is_empty() && allowed.is_value();
                    return (!lost).then_some(toml::Value::Table(sound));
                }
                None => Err(allowed.wrong("a table")),
            },
            DeValue::String(text) => allowed.text(text),
            DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
                Ok(number) => allowed.number(number),
                Err(_) => Err(Wrong::new("is too large a number".into())),
            },
            DeValue::Boolean(value) => allowed.boolean(*value),
            DeValue::Float(_) => Err(allowed.wrong("a fraction")),
            DeValue::Datetime(_) => Err(allowed.wrong("a date")),
            DeValue::Array(list) => match allowed.items {
                Some(items) => {
                    let sound: Vec<_> =
                        list.iter().filter_map(|item| self.value(item, items, path)).collect();
                    return (sound.len() == list.len()).then_some(toml::Value::Array(sound));
                }
                None => Err(allowed.wrong("an array")),
            },
        };
        match checked {
            Ok(value) => Some(value),
            Err(wrong) => {
                let key = path.last().map_or("", String::as_str);
                self.faults.add_at(Some(&Place::File(value.span())), wrong.fault(key));
                None
            }
        }
    }
}

/// The schema of a table's member; `None`: there is no such member.
pub(crate) fn member<'a>(schema: &'a Json, name: &str) -> Option<&'a Json> {
    schema
        .pointer("/properties")
        .and_then(|properties| properties.get(name))
        .or_else(|| schema.get("additionalProperties").filter(|schema| schema.is_object()))
}

/// The names of a table's members.
pub(crate) fn member_names(schema: &Json) -> impl Iterator<Item = &str> {
    let properties = schema.get("properties").and_then(Json::as_object);
    properties.into_iter().flatten().map(|(name, _)| name.as_str())
}

fn unknown_key(root: &Json, schema: &Json, name: &str, path: &[String]) -> Fault {
    let message = match path {
        [] => format!("unknown key {name:?}"),
        path => format!("unknown key {name:?} in [{}]", path.join(".")),
    };
    let help = suggest(name, member_names(schema))
        .map(|meant| format!("did you mean {meant:?}?"))
        .or_else(|| elsewhere(root, name).map(|section| format!("it belongs to {section}")))
        .or_else(|| {
            let known: Vec<_> = member_names(schema).collect();
            Some(format!("known here: {}", known.join(", ")))
        });
    Fault::error(message).maybe_help(help)
}

/// Another section that knows the key.
fn elsewhere(root: &Json, name: &str) -> Option<String> {
    let known = |schema: &Json| member_names(schema).any(|member| member == name);
    if known(root) {
        return Some("the top of the file, before the first section".into());
    }
    member_names(root).find_map(|section| {
        let schema = member(root, section)?;
        if known(schema) {
            return Some(format!("[{section}]"));
        }
        let named = schema.get("additionalProperties")?;
        known(named).then(|| format!("[{section}.NAME]"))
    })
}

/// What a schema lets a value be.
#[derive(Debug, Default)]
pub(crate) struct Allowed<'a> {
    words: Vec<&'a str>,
    any_text: bool,
    boolean: bool,
    number: Option<(i64, i64)>,
    /// The schema of the table that it may be.
    pub(crate) table: Option<&'a Json>,
    /// The schema of the members of the list that it may be.
    items: Option<&'a Json>,
}

/// What is wrong with a value: completes "KEY …".
#[derive(Debug)]
pub(crate) struct Wrong {
    message: String,
    help: Option<String>,
}

impl Wrong {
    fn new(message: String) -> Self {
        Self { message, help: None }
    }

    /// As a fault of that key.
    pub(crate) fn fault(self, key: &str) -> Fault {
        Fault::error(format!("{key} {}", self.message)).maybe_help(self.help)
    }
}

impl<'a> Allowed<'a> {
    /// Gathers all alternatives.
    pub(crate) fn of(schema: &'a Json) -> Self {
        let mut allowed = Self::default();
        allowed.gather(schema);
        allowed
    }

    fn gather(&mut self, schema: &'a Json) {
        for several in ["oneOf", "anyOf"] {
            let alternatives = schema.get(several).and_then(Json::as_array);
            for alternative in alternatives.into_iter().flatten() {
                self.gather(alternative);
            }
        }
        let listed = schema.get("enum").and_then(Json::as_array);
        let words = listed.into_iter().flatten().chain(schema.get("const"));
        let before = self.words.len();
        self.words.extend(words.filter_map(Json::as_str));
        let has_words = self.words.len() > before;
        let types = match schema.get("type") {
            Some(Json::Array(types)) => types.iter().filter_map(Json::as_str).collect(),
            Some(Json::String(one)) => vec![one.as_str()],
            Some(Json::Null | Json::Bool(_) | Json::Number(_) | Json::Object(_)) | None => vec![],
        };
        for one in types {
            match one {
                "string" => self.any_text |= !has_words,
                "boolean" => self.boolean = true,
                "integer" => {
                    let bound = |name: &str| schema.get(name).and_then(Json::as_i64);
                    self.number =
                        Some((bound("minimum").unwrap_or(i64::MIN), bound("maximum").unwrap_or(i64::MAX)));
                }
                "object" => self.table = Some(schema),
                "array" => self.items = schema.get("items"),
                _ => {}
            }
        }
    }

    /// It may be something else than a table.
    pub(crate) fn is_value(&self) -> bool {
        self.any_text
            || self.boolean
            || self.number.is_some()
            || !self.words.is_empty()
            || self.items.is_some()
    }

    /// Checks a string.
    pub(crate) fn text(&self, text: &str) -> Result<toml::Value, Wrong> {
        if self.any_text || self.words.contains(&text) {
            return Ok(toml::Value::String(text.to_owned()));
        }
        if self.words.is_empty() {
            return Err(self.wrong("a string"));
        }
        let meant = suggest(text, self.words.iter().copied());
        Err(Wrong {
            message: format!("must be {}, not {text:?}", self.expected()),
            help: meant.map(|meant| format!("did you mean {meant:?}?")),
        })
    }

    /// Checks a whole number.
    pub(crate) fn number(&self, number: i64) -> Result<toml::Value, Wrong> {
        match self.number {
            None => Err(self.wrong("a number")),
            Some((least, most)) if (least..=most).contains(&number) => Ok(toml::Value::Integer(number)),
            Some(_) => Err(Wrong::new(format!("must be {}, not {number}", self.expected()))),
        }
    }

    /// Checks a truth value.
    pub(crate) fn boolean(&self, value: bool) -> Result<toml::Value, Wrong> {
        if self.boolean { Ok(toml::Value::Boolean(value)) } else { Err(self.wrong("true or false")) }
    }

    /// Checks the value of a variable, which is always text; a list has commas.
    pub(crate) fn variable(&self, raw: &str) -> Result<toml::Value, Wrong> {
        if let Some(items) = self.items {
            let of_item = Self::of(items);
            let words = raw.split(',').map(str::trim).filter(|word| !word.is_empty());
            return words
                .map(|word| of_item.variable(word))
                .collect::<Result<_, _>>()
                .map(toml::Value::Array);
        }
        let typed = match (self.boolean, self.number) {
            (true, _) => raw.parse().ok().map(|value| self.boolean(value)),
            (false, Some(_)) => raw.parse().ok().map(|number| self.number(number)),
            (false, None) => None,
        };
        let textual = self.any_text || !self.words.is_empty();
        match typed {
            Some(checked) => checked,
            None if textual => self.text(raw),
            None => Err(Wrong::new(format!("must be {}, not {raw:?}", self.expected()))),
        }
    }

    fn wrong(&self, what: &str) -> Wrong {
        let help = match (self.any_text, what) {
            (true, "a number" | "true or false") => Some("put it in quotes".to_owned()),
            (_, "a string") if self.boolean || self.number.is_some() => {
                Some("write it without quotes".to_owned())
            }
            _ => None,
        };
        Wrong { message: format!("must be {}, not {what}", self.expected()), help }
    }

    /// In words, for messages and the reference page.
    pub(crate) fn expected(&self) -> String {
        let mut kinds: Vec<String> = self.words.iter().map(|word| format!("{word:?}")).collect();
        if self.any_text {
            kinds.push("a string".into());
        }
        if self.boolean {
            kinds.push("true or false".into());
        }
        match self.number {
            Some((i64::MIN, i64::MAX)) => kinds.push("a whole number".into()),
            Some((least, i64::MAX)) => kinds.push(format!("a whole number from {least}")),
            Some((least, most)) => kinds.push(format!("a whole number from {least} to {most}")),
            None => {}
        }
        if let Some(schema) = self.table {
            kinds.push(match member_names(schema).collect::<Vec<_>>()[..] {
                [only] if !self.words.is_empty() => format!("{{ {only} = … }}"),
                _ => "a table".into(),
            });
        }
        if let Some(items) = self.items {
            kinds.push(format!("a list of {}", Self::of(items).expected()));
        }
        match &kinds[..] {
            [] => "absent".into(),
            [one] => one.clone(),
            [first @ .., last] => format!("{} or {last}", first.join(", ")),
        }
    }
}
