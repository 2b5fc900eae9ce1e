//! Whether three gateways made the same requests of the same bytes.

use super::upstream::Seen;

/// What stands before the paths of the API: Evergrant takes it off, the others forward it.
const PREFIX: &str = "/v1/anthropic";

/// What a comparison comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Compared {
    /// As far as each forwarded it, all made the same of it.
    Same,
    /// The peers differ from one another; Evergrant agrees with one of them.
    PeersDiffer,
    /// Evergrant made something of it that a peer does not, and that no difference of the peers excuses.
    Differs(String),
}

pub(super) fn compare(ours: &[Seen], nginx: &[Seen], haproxy: &[Seen]) -> Compared {
    let peers_agree = same(nginx, haproxy, PREFIX, PREFIX).is_ok();
    let (nginx, haproxy) = (same(ours, nginx, "", PREFIX), same(ours, haproxy, "", PREFIX));
    match (nginx, haproxy) {
        (Ok(()), Ok(())) if peers_agree => Compared::Same,
        (Ok(()), Ok(())) => Compared::PeersDiffer,
        (Ok(()), Err(_)) | (Err(_), Ok(())) if !peers_agree => Compared::PeersDiffer,
        (Err(why), _) => Compared::Differs(format!("than nginx: {why}")),
        (_, Err(why)) => Compared::Differs(format!("than HAProxy: {why}")),
    }
}

/// As far as both go: one of them may have refused the rest.
fn same(one: &[Seen], other: &[Seen], one_prefix: &str, other_prefix: &str) -> Result<(), String> {
    for (at, (one, other)) in one.iter().zip(other).enumerate() {
        let targets = (path(one, one_prefix), path(other, other_prefix));
        if one.method != other.method || targets.0 != targets.1 {
            return Err(format!(
                "request {at} is {} {} or {} {}",
                one.method, targets.0, other.method, targets.1
            ));
        }
        if one.unclear || other.unclear {
            // A peer passed on what has no end that its upstream could make out, which is as good as a refusal.
            return Ok(());
        }
        let bodies_agree = match (one.whole, other.whole) {
            (true, true) => one.body == other.body,
            (false, true) => other.body.starts_with(&one.body),
            (true, false) => one.body.starts_with(&other.body),
            (false, false) => one.body.starts_with(&other.body) || other.body.starts_with(&one.body),
        };
        if !bodies_agree {
            return Err(format!("the body of request {at}"));
        }
    }
    Ok(())
}

fn path<'s>(seen: &'s Seen, prefix: &str) -> &'s str {
    seen.target.strip_prefix(prefix).unwrap_or(&seen.target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(target: &str, body: &str, whole: bool) -> Seen {
        Seen {
            method: "POST".into(),
            target: target.into(),
            fields: vec![],
            body: body.into(),
            whole,
            unclear: false,
        }
    }

    #[test]
    fn another_split_is_found_and_a_refusal_is_none() {
        let ours = [seen("/a", "abc", true), seen("/b", "", true)];
        let same = [seen("/v1/anthropic/a", "abc", true), seen("/v1/anthropic/b", "", true)];
        let fewer = &same[..1];
        let longer = [seen("/v1/anthropic/a", "abcPOST /b", true)];
        let cut = [seen("/v1/anthropic/a", "ab", false)];
        let other = [seen("/v1/anthropic/c", "abc", true)];
        assert_eq!(compare(&ours, &same, &same), Compared::Same);
        assert_eq!(compare(&ours, fewer, &[]), Compared::Same);
        assert_eq!(compare(&ours, &cut, fewer), Compared::Same);
        assert_eq!(compare(&[], &same, fewer), Compared::Same);
        assert_eq!(compare(&[], &same, &other), Compared::PeersDiffer);
        assert_eq!(compare(&ours, &same, &longer), Compared::PeersDiffer);
        for (nginx, haproxy) in [(&longer, &longer), (&other, &other), (&other, &longer), (&longer, &cut)] {
            assert!(matches!(compare(&ours, nginx, haproxy), Compared::Differs(_)), "{nginx:?} {haproxy:?}");
        }
    }
}
