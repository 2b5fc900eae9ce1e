//! What is decided for a chain that is an API key: there is no grant and nothing to renew; the file says which key it
//! is, and the API whether it works (SPEC §3, §7).

use std::time::Duration;

use jiff::Timestamp;

use crate::chain::{ChainName, Generation, Lineage};
use crate::gateway::Position;
use crate::keeper::{Report, TICK};
use crate::reason::Reason;
use crate::secret::Fingerprint;

/// The API key that a chain has now, without the key itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The number of the key as lineage; its generation is always the first.
    pub position: Position,
    /// Which key.
    pub fingerprint: Fingerprint,
    /// When the API refused it, if it did.
    pub refused_at: Option<Timestamp>,
}

/// A key that the API refused is tried again after so long: it may have been allowed again where keys are made, and
/// nothing in the file tells of that.
pub const REFUSED_FOR: Duration = TICK;

/// Two looks that nobody asked for are so far apart at least.
const LEAST: Duration = Duration::from_secs(1);

/// What the key in the file makes of the chain. `before`: what is known of it; another key is a new lineage.
pub fn take_in(before: Option<Held>, fingerprint: Fingerprint, now: Timestamp) -> Held {
    let first = |lineage| Held { position: (lineage, Generation::FIRST), fingerprint, refused_at: None };
    match before {
        None => first(Lineage::FIRST),
        Some(held) if held.fingerprint != fingerprint => first(held.position.0.next()),
        Some(held) => {
            let still = held.refused_at.filter(|at| now < *at + REFUSED_FOR);
            Held { refused_at: still, ..held }
        }
    }
}

/// The chain after the API refused its key. Nothing changes if it has another one by now.
#[must_use]
pub fn refused(held: Held, position: Position, now: Timestamp) -> Held {
    if held.position == position { Held { refused_at: held.refused_at.or(Some(now)), ..held } } else { held }
}

/// When to look at the chain next: the file is watched besides.
pub fn next_look(held: Option<Held>, now: Timestamp) -> Timestamp {
    let again = held.and_then(|held| held.refused_at).map(|at| at + REFUSED_FOR);
    again.map_or(now + TICK, |at| at.max(now + LEAST))
}

/// The report of a look at such a chain; `unusable` is why the file gave no key.
pub fn report(chain: &ChainName, held: Option<Held>, unusable: Option<String>, now: Timestamp) -> Report {
    let refused = held.and_then(|held| held.refused_at).map(|_| Reason::ApiKeyRefused);
    let error = unusable.as_ref().map(|_| Reason::ApiKeyUnusable).or(refused);
    let token_valid = error.is_none() && held.is_some();
    Report {
        token_present: unusable.is_none() && held.is_some(),
        token_valid,
        ok: token_valid,
        lineage: held.map(|held| held.position.0),
        generation: held.map(|held| held.position.1),
        ..Report::new(chain, None, false, (error.unwrap_or(Reason::NothingToRenew), error), now)
    }
    .detail(unusable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + secs).unwrap()
    }

    #[test]
    fn another_key_is_a_new_lineage_and_a_refused_one_is_tried_again() {
        let (one, other) = (Fingerprint::of(b"one"), Fingerprint::of(b"other"));
        let held = take_in(None, one, at(0));
        assert_eq!(held.position, (Lineage(1), Generation(1)));
        assert_eq!(take_in(Some(held), one, at(9)), held);
        assert_eq!(refused(held, (Lineage(2), Generation(1)), at(9)), held, "another one");
        let dead = refused(held, held.position, at(10));
        assert_eq!(dead.refused_at, Some(at(10)));
        assert_eq!(refused(dead, held.position, at(20)), dead);
        assert_eq!(take_in(Some(dead), one, at(11)), dead);
        let again = at(10) + REFUSED_FOR;
        assert_eq!(next_look(Some(dead), at(11)), again);
        assert_eq!(next_look(Some(dead), again), again + LEAST, "overdue, and never at once again");
        assert_eq!(take_in(Some(dead), one, again), held);
        let next = take_in(Some(dead), other, at(11));
        assert_eq!((next.position, next.refused_at), ((Lineage(2), Generation(1)), None));
        assert_eq!(next_look(Some(next), at(11)), at(11) + TICK);
    }

    #[test]
    fn every_situation_has_its_report() {
        let chain = "claude".parse().unwrap();
        let held = take_in(None, Fingerprint::of(b"one"), at(0));
        let dead = refused(held, held.position, at(1));
        for (held, unusable, present, error) in [
            (Some(held), None, true, None),
            (Some(dead), None, true, Some(Reason::ApiKeyRefused)),
            (Some(held), Some("gone"), false, Some(Reason::ApiKeyUnusable)),
            (None, Some("gone"), false, Some(Reason::ApiKeyUnusable)),
        ] {
            let report = report(&chain, held, unusable.map(str::to_owned), at(2));
            assert_eq!((report.token_present, report.error), (present, error));
            assert_eq!((report.ok, report.token_valid), (error.is_none(), error.is_none()));
            assert_eq!((report.expires_at, report.renew_at), (None, None));
        }
    }
}
