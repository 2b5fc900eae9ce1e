//! What the API keeps for those who made it: batches and files. Each belongs to its maker and is found by nobody else.

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::call::Call;
use crate::fingerprint::Fingerprint;
use crate::log::Source;

/// How the API deals with batches and files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectRules {
    /// Seconds that a batch takes. The answer to its making says `in_progress` in any case.
    pub batch_secs: u64,
    /// Whether a file can be downloaded by those who uploaded it.
    pub uploads_downloadable: bool,
    /// Batches and files kept, each; beyond it the oldest goes.
    pub kept: usize,
}

impl Default for ObjectRules {
    fn default() -> Self {
        Self { batch_secs: 0, uploads_downloadable: true, kept: 256 }
    }
}

/// Whose an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The account behind every login, whichever access token it shows.
    Account,
    /// Whoever holds this API key.
    Key(Option<Fingerprint>),
}

impl Owner {
    pub(crate) fn of(source: Source, presented: Option<&str>) -> Self {
        match source {
            Source::Oauth => Self::Account,
            Source::ApiKey | Source::Both | Source::None => Self::Key(presented.map(Fingerprint::of)),
        }
    }
}

/// Everything that was made and not deleted, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Objects {
    pub(crate) batches: Vec<Batch>,
    pub(crate) files: Vec<File>,
}

/// Keeps one more, and no more than `kept`.
pub(crate) fn keep<T>(list: &mut Vec<T>, made: T, kept: usize) {
    list.push(made);
    let surplus = list.len().saturating_sub(kept.max(1));
    list.drain(..surplus);
}

/// A batch of messages.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) id: String,
    pub(crate) owner: Owner,
    pub(crate) created_at: Timestamp,
    /// When it ends, if nobody cancels it.
    pub(crate) ends_at: Timestamp,
    pub(crate) canceled_at: Option<Timestamp>,
    /// `custom_id` and `params` of each request.
    pub(crate) requests: Vec<(String, Value)>,
}

impl Batch {
    /// When it ended, as of `now`.
    pub(crate) fn ended_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.canceled_at.or_else(|| (self.ends_at <= now).then_some(self.ends_at))
    }

    /// A day after its making.
    pub(crate) fn expires_at(&self) -> Timestamp {
        self.created_at.checked_add(SignedDuration::from_hours(24)).unwrap_or(self.created_at)
    }
}

/// An uploaded file.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) id: String,
    pub(crate) owner: Owner,
    pub(crate) created_at: Timestamp,
    pub(crate) name: String,
    pub(crate) mime_type: String,
    pub(crate) content: Bytes,
}

/// The part of a list that a call asks for by `limit`, `after_id` and `before_id`; or what is wrong with them.
pub(crate) fn page<T>(
    call: &Call<'_>,
    newest_first: &[T],
    id_of: impl Fn(&T) -> &str,
    shown: impl Fn(&T) -> Value,
) -> Result<Value, String> {
    let limit = match call.query("limit").map(|text| text.parse::<usize>()) {
        None => 20,
        Some(Ok(limit @ 1..=1000)) => limit,
        Some(Ok(_) | Err(_)) => return Err("limit: a number from 1 to 1000 is expected".into()),
    };
    let place = |id: &str| newest_first.iter().position(|object| id_of(object) == id);
    let cursor = call.query("page").and_then(|page| page.strip_prefix("page_").map(str::to_owned));
    let (from, to) = match (call.query("after_id").or(cursor), call.query("before_id")) {
        (Some(_), Some(_)) => return Err("after_id and before_id exclude each other".into()),
        (Some(after), None) => {
            let after = place(&after).ok_or("after_id: no such object")?;
            (after + 1, newest_first.len())
        }
        (None, Some(before)) => {
            let before = place(&before).ok_or("before_id: no such object")?;
            (before.saturating_sub(limit), before)
        }
        (None, None) => (0, newest_first.len()),
    };
    let rest = &newest_first[from..to];
    let here = &rest[..limit.min(rest.len())];
    let more = if call.query("before_id").is_some() { from > 0 } else { here.len() < rest.len() };
    let last = here.last().map(&id_of);
    Ok(json!({
        "data": here.iter().map(shown).collect::<Vec<_>>(),
        "has_more": more,
        "first_id": here.first().map(&id_of),
        "last_id": last,
        "next_page": last.filter(|_| more).map(|id| format!("page_{id}")),
    }))
}
