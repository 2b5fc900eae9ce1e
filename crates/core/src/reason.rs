//! Every reason that a decision can carry, in one place (SPEC §1). They feed reports, logs, metrics and docs.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal,)+) => {
        /// A stable code that says why something was decided.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[doc = $doc])+ #[serde(rename = $code)] $variant,)+
        }

        impl Reason {
            /// All of them, in the order of this file.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The code as it stands in JSON, logs and metrics.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// One sentence for a person.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    // What a look of the keeper found or did.
    /// The grant was renewed.
    Renewed = "renewed",
    /// The access token is not due for renewal yet.
    NotDue = "not_due",
    /// The last renewal is too recent for another forced one.
    TooSoon = "too_soon",
    /// Somebody else holds the right to rotate this chain at the moment.
    LeaseHeld = "lease_held",
    /// The database was started or restored a moment ago: servers compare it with what they have seen before a token is sent.
    Held = "held",
    /// This kind of grant has nothing that could be renewed.
    NothingToRenew = "nothing_to_renew",
    /// A grant that somebody else put into the vault was taken as the chain's own.
    Adopted = "adopted",
    /// A grant was imported.
    Imported = "imported",
    /// The grant is the one that the chain holds already.
    SameGrant = "same_grant",
    /// An answer that an earlier process had received was committed.
    ReceiptCommitted = "receipt_committed",
    /// The state behind the auth file was brought up to it.
    BroughtUp = "brought_up",
    /// The rotation is about to be sent.
    Intended = "intended",

    // Errors of a report.
    /// The provider refused the refresh token for good; somebody has to log in again.
    RefreshTokenRevoked = "refresh_token_revoked",
    /// The grant itself has ended; somebody has to log in again.
    GrantExpired = "grant_expired",
    /// The vault holds no grant.
    TokenAbsent = "token_absent",
    /// The auth file cannot be read as a grant; it is left as it is.
    AuthFileMalformed = "auth_file_malformed",
    /// Somebody put an older auth file back; the newest pair was restored.
    AuthFileRolledBack = "auth_file_rolled_back",
    /// The vault holds a pair that this chain has replaced already; it is worth nothing.
    GrantSpent = "grant_spent",
    /// A renewed pair could not be kept, so nothing was sent.
    VaultUnwritable = "vault_unwritable",
    /// The pair in the database does not open: its seal key is missing, or the row was tampered with.
    SealBroken = "seal_broken",
    /// The provider rejected the request itself; a setting is wrong.
    ClientRejected = "client_rejected",
    /// The provider asks to be called less often.
    ProviderThrottled = "provider_throttled",
    /// Something in front of the provider refuses the request; it is never worked around.
    ProviderBlocked = "provider_blocked",
    /// The provider could not be reached.
    ProviderUnavailable = "provider_unavailable",
    /// Nobody can know whether the presented refresh token was spent.
    InDoubt = "in_doubt",
    /// Another program's lock keeps blocking the chain.
    LockForeign = "lock_foreign",
    /// The vault was restored from a backup and may hold a spent pair.
    Quarantined = "quarantined",
    /// The file of the identity token is missing, empty or too large, or cannot be read.
    IdentityTokenUnusable = "identity_token_unusable",
    /// The file of the API key is missing or holds no API key, or cannot be read.
    ApiKeyUnusable = "api_key_unusable",
    /// The API refuses the API key.
    ApiKeyRefused = "api_key_refused",
    /// No process has an access token for this chain now; a look mints one.
    NotMinted = "not_minted",
    /// The provider's terms are not accepted for this chain, so nothing is done with it.
    TermsNotAccepted = "terms_not_accepted",

    // Conditions and warnings.
    /// A renewal is in doubt; log in again in good time.
    RenewalInDoubt = "renewal_in_doubt",
    /// Somebody else rotates this chain's pair.
    SecondWriter = "second_writer",
    /// Our clock is more than 2 minutes off the provider's.
    ClockSkew = "clock_skew",
    /// The state could not be written; the vault is ahead of it until it can.
    StateUnwritable = "state_unwritable",

    // Why a login is not taken.
    /// It does not bear the prefix that the provider's tokens have.
    WrongPrefix = "wrong_prefix",
    /// Its access token has expired and it has no refresh token.
    Expired = "expired",

    // The probe.
    /// The access token works.
    ProbeOk = "probe_ok",
    /// The token's scopes do not cover the probe URL; the round trip alone decided.
    ProbeLimited = "probe_limited",
    /// No answer to the probe, which says nothing about the token.
    ProbeUnavailable = "probe_unavailable",
    /// The API refused the access token.
    ProbeRefused = "probe_refused",

    // Why the keeper wakes up.
    /// The stored instant of the renewal has come.
    RenewAt = "renew_at",
    /// The periodic look.
    Tick = "tick",
    /// The auth file changed.
    FileChanged = "file_changed",
    /// Somebody asked for it.
    Forced = "forced",
    /// The access token was refused at the current generation.
    AccessRefused = "access_refused",
    /// A back-off has run out.
    BackOff = "back_off",
    /// A pair in doubt may be presented again.
    DoubtPresentation = "doubt_presentation",
    /// A refusal is confirmed once, where the provider does not punish reuse.
    Confirmation = "confirmation",

    // The gateway.
    /// The chain has no live access token, and no fallback key may serve.
    NoSource = "no_source",
    /// The day's requests for the fallback key are used up.
    FallbackUsedUp = "fallback_used_up",
    /// A share of the day's requests for the fallback key is used up.
    FallbackBudget = "fallback_budget",
    /// The fallback key served a request.
    GatewayUsingFallbackKey = "gateway_using_fallback_key",
    /// The daily free call proved that the fallback key works.
    FallbackKeyOk = "fallback_key_ok",
    /// The provider refuses the fallback key.
    FallbackKeyRefused = "fallback_key_refused",
    /// The access token is accepted, but the grant may not do what was asked.
    GrantRefused = "grant_refused",
    /// A provider's token or key was presented where a caller key of Evergrant belongs.
    ProviderTokenPresented = "provider_token_presented",
    /// The path is not one that is forwarded.
    NotForwarded = "not_forwarded",
    /// The request is not HTTP as one may pass it on.
    BadRequest = "bad_request",
    /// The request is larger than this path takes.
    RequestTooLarge = "request_too_large",
    /// The client was too slow.
    SlowClient = "slow_client",
    /// No connection to the provider.
    UpstreamUnreachable = "upstream_unreachable",
    /// The provider closed the connection without a whole answer.
    UpstreamClosed = "upstream_closed",
    /// The provider's answer is not HTTP as one may pass it on.
    UpstreamMalformed = "upstream_malformed",
    /// The provider did not answer in time.
    UpstreamTimeout = "upstream_timeout",
    /// The server ended, and the request outlasted its drain.
    Drained = "drained",
    /// The client went away.
    ClientGone = "client_gone",

    // Callers of the gateway and of the admin API.
    /// No caller key was presented.
    CallerMissing = "caller_missing",
    /// The caller key is not known here.
    CallerUnknown = "caller_unknown",
    /// The caller key was revoked.
    CallerRevoked = "caller_revoked",
    /// The caller key has expired.
    CallerExpired = "caller_expired",
    /// The caller key was rotated already; rotate the one that took its place.
    CallerReplaced = "caller_replaced",
    /// The caller key lacks the scope that this call needs.
    ScopeMissing = "scope_missing",
    /// The caller sends more requests a minute than its key allows.
    RateLimited = "rate_limited",
    /// The caller has as many requests in flight as its key allows.
    ConcurrencyLimited = "concurrency_limited",
    /// The request cannot be understood as it stands.
    RequestInvalid = "request_invalid",
    /// The body of the request is larger than this call takes.
    BodyTooLarge = "body_too_large",
    /// There is nothing under this address.
    NotFound = "not_found",
    /// This address takes other methods.
    MethodNotAllowed = "method_not_allowed",
    /// This is switched off in the configuration.
    NotEnabled = "not_enabled",
    /// No chain of that name is configured.
    ChainUnknown = "chain_unknown",
    /// The state cannot be read or written at the moment.
    StateUnavailable = "state_unavailable",

    // Push events: what agent and server make of them.
    /// The grant of a push is the chain's now.
    Accepted = "accepted",
    /// A heartbeat was heard.
    Beat = "beat",
    /// The entry was written before the agent's last look, so it is no new login.
    NotFresh = "not_fresh",
    /// The server refused this grant for good.
    Refused = "refused",
    /// The workstation's keychain is locked.
    KeychainLocked = "keychain_locked",
    /// The workstation holds no entry with a login.
    NoEntry = "no_entry",
    /// The login was wiped: its tokens are empty.
    Wiped = "wiped",
    /// The entry cannot be read as a login.
    Malformed = "malformed",
    /// The agent's clock is more than 5 minutes off the server's.
    AgentClockSkew = "agent_clock_skew",
    /// This very message was taken before.
    NonceSeen = "nonce_seen",
    /// The grant is another account's or organization's than the chain's.
    IdentityMismatch = "identity_mismatch",
    /// The chain's kind takes no pushed grant.
    NothingToPush = "nothing_to_push",
    /// The agent got no answer from the server.
    ServerUnreachable = "server_unreachable",
    /// The server's answer is none of Evergrant's.
    ServerError = "server_error",
    /// The server's address is neither TLS nor loopback, so the agent sends nothing there.
    ServerInsecure = "server_insecure",

    // Alerts on their way.
    /// The sink took the alert.
    Delivered = "delivered",
    /// The sink could not be reached, or is not well; the alert is sent again.
    SinkUnavailable = "sink_unavailable",
    /// The sink refuses this alert for good.
    SinkRefused = "sink_refused",
    /// The sink did not take the alert within 24 h.
    SinkGivenUp = "sink_given_up",

    // Configuration.
    /// The configuration was read again.
    ConfigReloaded = "config_reloaded",
    /// The new configuration is faulty; the old one stays.
    ConfigRejected = "config_rejected",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A code that is not in the list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no reason that Evergrant knows")]
pub struct UnknownReason(String);

impl std::str::FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(code: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.as_str() == code)
            .ok_or_else(|| UnknownReason(code.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_unique_snake_case_and_find_their_reason() {
        let codes: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(reason.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
            assert!(reason.sentence().ends_with('.'), "{reason} has no sentence");
            assert_eq!(reason.as_str().parse(), Ok(*reason));
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
        assert!("no_such_reason".parse::<Reason>().is_err());
    }
}
