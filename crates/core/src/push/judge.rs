//! The server's judgement of a push event, as far as it needs nobody else (SPEC §5). The order of its questions is
//! part of it: the first that says no is the reason.

use jiff::{SignedDuration, Timestamp};

use super::{Call, Identity, PushKind};
use crate::chain::Kind;
use crate::grant::Grant;
use crate::health::Outcome;
use crate::provider::Profile;
use crate::reason::Reason;

/// Agent and server may disagree by so much about the time, in seconds.
pub const MOST_AGENT_SKEW_SECS: i64 = 5 * 60;

/// Why a push event is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub reason: Reason,
    /// What is wrong, and what to do.
    pub detail: String,
}

impl Refusal {
    /// For a reason, in the words of who found it.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// Judges what the message alone says: its form, the grant's prefixes and expiry, and the clock.
pub fn judge(
    call: &Call,
    profile: &Profile,
    kind: Kind,
    accepted: bool,
    now: Timestamp,
) -> Result<(), Refusal> {
    form(call)?;
    match (call.message.kind, &call.grant) {
        (PushKind::Beat, None) => {}
        (PushKind::Beat, Some(_)) => {
            return Err(Refusal::new(Reason::RequestInvalid, "a beat carries no grant: send kind \"push\""));
        }
        (PushKind::Push, None) => {
            return Err(Refusal::new(
                Reason::RequestInvalid,
                "a push carries a grant, and this one has none",
            ));
        }
        (PushKind::Push, Some(grant)) => pushed(grant, profile, kind, accepted, now)?,
    }
    let off = now.duration_since(call.message.sent_at);
    if off.abs() > SignedDuration::from_secs(MOST_AGENT_SKEW_SECS) {
        let (secs, way) = (off.abs().as_secs(), if off.is_positive() { "behind" } else { "ahead of" });
        let detail =
            format!("the workstation's clock is {secs} s {way} the server's: set it, then push again");
        return Err(Refusal::new(Reason::AgentClockSkew, detail));
    }
    Ok(())
}

/// Bounds that keep the ledger readable, and a message within what its type says.
fn form(call: &Call) -> Result<(), Refusal> {
    let message = &call.message;
    let word = |text: &str, least: usize, most: usize, more: &[u8]| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || more.contains(&byte);
        (least..=most).contains(&text.len()) && text.bytes().all(plain)
    };
    let said = |text: &str, most: usize| text.chars().count() <= most && !text.chars().any(char::is_control);
    let absence = message.absence.as_ref().map_or("", |absence| absence.reason.as_str());
    let entry = message.local.entry.as_deref().unwrap_or_default();
    let folder = message.local.config_dir.as_deref().unwrap_or_default();
    let checks = [
        (word(&message.agent_id, 1, 64, b"-_."), "agent_id is 1 to 64 of A-Z a-z 0-9 - _ ."),
        (word(&message.nonce, 16, 64, b"-_"), "nonce is 16 to 64 of A-Z a-z 0-9 - _"),
        (said(&message.host, 255), "host is up to 255 printable characters"),
        (said(&message.version, 64), "version is up to 64 printable characters"),
        (said(absence, 200), "absence.reason is up to 200 printable characters"),
        (said(entry, 1024), "local.entry is up to 1,024 printable characters"),
        (said(folder, 1024), "local.config_dir is up to 1,024 printable characters"),
        (message.failures.len() <= 16, "failures has up to 16 lines"),
    ];
    match checks.iter().find(|(fits, _)| !fits) {
        Some((_, what)) => Err(Refusal::new(Reason::RequestInvalid, *what)),
        None => Ok(()),
    }
}

fn pushed(
    grant: &Grant,
    profile: &Profile,
    kind: Kind,
    accepted: bool,
    now: Timestamp,
) -> Result<(), Refusal> {
    match kind {
        Kind::RefreshToken | Kind::Static => {}
        Kind::JwtBearer | Kind::ClientCredentials | Kind::ApiKey => {
            let detail = format!("the chain is of kind {:?} and takes no login", kind.as_str());
            return Err(Refusal::new(Reason::NothingToPush, detail));
        }
    }
    if !accepted {
        let terms = profile.terms.as_deref().unwrap_or("the provider's terms");
        let detail =
            format!("read {terms}; then set accept_provider_terms = true on the chain, at the server");
        return Err(Refusal::new(Reason::TermsNotAccepted, detail));
    }
    profile.prefixes(grant).map_err(|detail| Refusal::new(Reason::WrongPrefix, detail))?;
    if grant.expires_at.is_some_and(|end| end <= now) {
        return Err(Refusal::new(Reason::Expired, "the login's access token has expired: log in again"));
    }
    Ok(())
}

/// What a refused message means for a failure streak; nothing of a heartbeat that is sent once more, which is no sign
/// of life.
pub fn outcome_of_refusal(kind: PushKind, reason: Reason) -> Option<Outcome> {
    match kind {
        PushKind::Beat if reason == Reason::NonceSeen => None,
        PushKind::Beat => Some(Outcome::Neutral),
        PushKind::Push => Some(Outcome::Failed),
    }
}

/// Whether a login is the chain's own account's, as far as both say whose they are; `command` brings it in all the same.
pub fn same_identity(
    known: Option<&Identity>,
    brought: Option<&Identity>,
    accept_new: bool,
    command: &str,
) -> Result<(), Refusal> {
    match (known, brought) {
        (Some(known), Some(brought)) if known.contradicts(brought) && !accept_new => {
            let detail = format!(
                "the login is another account's or organization's than the chain's; if that is meant: {command}"
            );
            Err(Refusal::new(Reason::IdentityMismatch, detail))
        }
        (Some(_) | None, Some(_) | None) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::{Absence, Local, Message};
    use crate::secret::{AccessToken, RefreshToken};

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn call(kind: PushKind) -> Call {
        let profile = Profile::claude();
        let token = |prefix: &Option<String>| format!("{}{}", prefix.as_deref().unwrap(), "x".repeat(40));
        let grant = Grant {
            access: AccessToken::parse(&token(&profile.access_prefix)).unwrap(),
            refresh: Some(RefreshToken::parse(&token(&profile.refresh_prefix)).unwrap()),
            expires_at: Some(now() + SignedDuration::from_hours(8)),
            grant_expires_at: None,
            scopes: vec!["user:inference".into()],
        };
        let message = Message {
            kind,
            chain: None,
            agent_id: "desk-1".into(),
            host: "desk".into(),
            version: "0.1.0".into(),
            sent_at: now(),
            nonce: "0123456789abcdef".into(),
            local: Local::default(),
            reason: None,
            refused: None,
            pending: false,
            blind_since: None,
            failures: Vec::new(),
            absence: None,
        };
        Call {
            message,
            grant: (kind == PushKind::Push).then_some(grant),
            identity: None,
            accept_new_identity: false,
        }
    }

    fn reason(change: impl FnOnce(&mut Call)) -> Option<Reason> {
        let mut call = call(PushKind::Push);
        change(&mut call);
        judge(&call, &Profile::claude(), Kind::RefreshToken, true, now()).err().map(|refusal| refusal.reason)
    }

    #[test]
    fn what_is_as_it_should_be_is_taken() {
        assert_eq!(reason(|_| ()), None);
        let beat = call(PushKind::Beat);
        assert_eq!(judge(&beat, &Profile::claude(), Kind::JwtBearer, false, now()), Ok(()));
    }

    #[test]
    fn each_fault_has_its_reason_and_the_first_counts() {
        let token = |raw: &str| AccessToken::parse(raw).unwrap();
        type Change = fn(&mut Call);
        let table: [(&str, Reason, Change); 10] = [
            ("no grant", Reason::RequestInvalid, |call| call.grant = None),
            ("a beat with one", Reason::RequestInvalid, |call| call.message.kind = PushKind::Beat),
            ("a nonce too short", Reason::RequestInvalid, |call| call.message.nonce = "short".into()),
            ("a name with blanks", Reason::RequestInvalid, |call| call.message.agent_id = "a b".into()),
            ("a folder of two lines", Reason::RequestInvalid, |call| {
                call.message.local.config_dir = Some("/Users/ada\nrm".into());
            }),
            ("an essay", Reason::RequestInvalid, |call| {
                call.message.absence = Some(Absence { until: now(), reason: "x".repeat(201) });
            }),
            ("expired", Reason::Expired, |call| {
                call.grant.as_mut().unwrap().expires_at = Some(now());
            }),
            ("behind", Reason::AgentClockSkew, |call| {
                call.message.sent_at = now() - SignedDuration::from_secs(301);
            }),
            ("ahead", Reason::AgentClockSkew, |call| {
                call.message.sent_at = now() + SignedDuration::from_secs(301);
            }),
            ("expired and behind", Reason::Expired, |call| {
                call.grant.as_mut().unwrap().expires_at = Some(now());
                call.message.sent_at = now() - SignedDuration::from_secs(301);
            }),
        ];
        for (name, expected, change) in table {
            assert_eq!(reason(change), Some(expected), "{name}");
        }
        let wrong = reason(|call| call.grant.as_mut().unwrap().access = token("somebody-elses-token-0000"));
        assert_eq!(wrong, Some(Reason::WrongPrefix));
        assert_eq!(reason(|call| call.message.sent_at = now() + SignedDuration::from_secs(300)), None);
        let push = call(PushKind::Push);
        let of = |kind, accepted| judge(&push, &Profile::claude(), kind, accepted, now()).unwrap_err().reason;
        assert_eq!(of(Kind::JwtBearer, true), Reason::NothingToPush);
        assert_eq!(of(Kind::RefreshToken, false), Reason::TermsNotAccepted);
    }

    #[test]
    fn another_account_has_to_be_meant() {
        let of = |account: &str| Identity { account: Some(account.into()), organization: Some("o".into()) };
        let same = |known: Option<&str>, call: &Call| {
            same_identity(known.map(of).as_ref(), call.identity.as_ref(), call.accept_new_identity, "do that")
        };
        let mut call = call(PushKind::Push);
        assert_eq!(same(Some("a"), &call), Ok(()), "it does not say whose it is");
        call.identity = Some(of("b"));
        assert_eq!(same(None, &call), Ok(()));
        assert_eq!(same(Some("b"), &call), Ok(()));
        assert_eq!(same(Some("a"), &call).unwrap_err().reason, Reason::IdentityMismatch);
        call.accept_new_identity = true;
        assert_eq!(same(Some("a"), &call), Ok(()));
    }

    #[test]
    fn a_call_survives_the_wire_and_faults_quote_nothing() {
        let mut sent = call(PushKind::Push);
        sent.identity = Some(Identity { account: Some("a".into()), organization: None });
        assert_eq!(Call::decode(&sent.encode()).unwrap(), sent);
        let beat = call(PushKind::Beat);
        assert_eq!(Call::decode(&beat.encode()).unwrap(), beat);
        let body = String::from_utf8(sent.encode()).unwrap();
        for broken in [
            body.replace("\"push\"", "\"canary\""),
            body.replace("\"expires_at\":\"2027", "\"expires_at\":\"canary"),
            body.replace("\"nonce\"", "\"canary\""),
            body.replace("\"sent_at\":\"2027", "\"sent_at\":\"canary"),
            "canary".into(),
        ] {
            assert_ne!(broken, body);
            let fault = Call::decode(broken.as_bytes()).unwrap_err().to_string();
            assert!(!fault.contains("canary\""), "{fault}");
            assert!(!fault.contains("xxxx"), "{fault}");
        }
    }
}
