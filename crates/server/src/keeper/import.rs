//! A grant that somebody hands in: judged, then committed through the keeper as a lineage of its own
//! (SPEC §4 "Pushes, imports and adoptions", §5).

use std::time::Duration;

use evergrant_core::authfile::Reading;
use evergrant_core::event::EventKind;
use evergrant_core::grant::Grant;
use evergrant_core::keeper::{self, Report};
use evergrant_core::provider::Profile;
use evergrant_core::{Reason, authfile};
use evergrant_store::authfile::Written;
use evergrant_store::{Held, State, VaultError};
use jiff::Timestamp;
use serde_json::json;

use super::looked::Looked;
use super::step;
use super::{Keeper, NewEvent};
use crate::world::World;

/// What became of an import.
#[derive(Debug)]
pub enum Import {
    /// It is the chain's grant now.
    Taken(Report),
    /// It was refused, and changed nothing.
    Refused(Refused),
}

/// Why a grant is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The code.
    pub reason: Reason,
    /// What is wrong, and what to do.
    pub detail: String,
}

/// How often the lock is tried while an exchange is in flight.
const TRY_LOCK_EVERY: Duration = Duration::from_millis(100);
/// So often somebody may edit the file before an import gives up.
const MOST_EDITS: usize = 16;

impl<W: World> Keeper<W> {
    /// Judges a grant without touching the vault: terms, prefixes, expiry.
    pub fn judge(&self, grant: &Grant) -> Result<(), Refused> {
        if !self.0.accepted {
            let detail = self.terms_not_accepted().detail.unwrap_or_default();
            return Err(Refused { reason: Reason::TermsNotAccepted, detail });
        }
        judge(&self.0.policy.profile, grant, self.0.world.now())
    }

    /// Takes a grant that was judged and probed. An exchange in flight ends first, or the lock is given up on
    /// shortly after its deadline.
    pub async fn import(&self, grant: Grant) -> Import {
        let begun = self.0.world.monotonic();
        let patience = self.0.policy.deadline + Duration::from_secs(5);
        let remembered = self.0.world.state().record(&self.0.chain).await.unwrap_or_default();
        loop {
            let (keeper, grant, remembered) = (self.clone(), grant.clone(), remembered.clone());
            let work = move || {
                let mut looked = Looked { record: remembered.clone(), ..Looked::default() };
                if let Err(error) = keeper.0.vault.make_folder() {
                    let refused = Refused { reason: Reason::VaultUnwritable, detail: error.to_string() };
                    return Locked::Yes(Box::new(Err(refused)));
                }
                match step::lock(&keeper, &mut looked) {
                    None => Locked::No(looked),
                    Some(held) => Locked::Yes(Box::new(keeper.take(&held, remembered, &grant))),
                }
            };
            match self.0.world.offload(work).await {
                Locked::Yes(taken) => return self.finish_import(*taken, begun).await,
                Locked::No(looked) => {
                    let reason = looked.reason.unwrap_or(Reason::LeaseHeld);
                    let waited = self.0.world.monotonic().saturating_sub(begun);
                    if reason != Reason::LeaseHeld || waited >= patience {
                        return Import::Refused(Refused {
                            reason,
                            detail: looked.detail.unwrap_or_default(),
                        });
                    }
                }
            }
            self.0.world.sleep(TRY_LOCK_EVERY).await;
        }
    }

    async fn finish_import(&self, taken: Result<Looked, Refused>, begun: Duration) -> Import {
        match taken {
            Err(refused) => Import::Refused(refused),
            Ok(looked) => {
                let report = looked.report(&self.0.chain, self.0.world.now());
                self.finish(looked, None).await;
                self.poke();
                Import::Taken(report.took(self.0.world.monotonic().saturating_sub(begun)))
            }
        }
    }

    /// Under the lock: what is found is finished first, so that it is known which pairs are replaced.
    fn take(
        &self,
        held: &Held<W::Disk>,
        remembered: Option<evergrant_core::chain::Record>,
        grant: &Grant,
    ) -> Result<Looked, Refused> {
        let unwritable =
            |error: VaultError| Refused { reason: Reason::VaultUnwritable, detail: error.to_string() };
        let mut looked = Looked::default();
        let pair = grant.pair();
        let mut written = Written::EditedMeanwhile;
        for _ in 0..MOST_EDITS {
            step::settle_found(self, held, remembered.clone(), None, &mut looked).map_err(unwritable)?;
            if looked.record.as_ref().is_some_and(|record| record.pair == pair) && looked.grant.is_some() {
                looked.reason = Some(Reason::SameGrant);
                return Ok(looked);
            }
            if held.was_replaced(pair.fingerprint()) {
                return Err(Refused {
                    reason: Reason::GrantSpent,
                    detail: "this chain has replaced that pair already, so it is worth nothing: log in again"
                        .into(),
                });
            }
            // An edit that falls in between is looked at like any other before it is replaced.
            written = self.put(held, looked.read.as_deref(), grant).map_err(unwritable)?;
            if written == Written::Done {
                break;
            }
        }
        if written != Written::Done {
            let path = held.file().display();
            return Err(Refused {
                reason: Reason::VaultUnwritable,
                detail: format!(
                    "{path} cannot be read, or is being edited all the time: nothing was changed"
                ),
            });
        }
        let before = looked.record.take();
        let (now, mut rng) = (self.0.world.now(), self.0.world.rng());
        let record =
            keeper::take_in(&self.0.chain, before.as_ref(), grant, true, &self.0.policy, now, &mut rng);
        held.write_record(&record).map_err(unwritable)?;
        let detail = json!({ "fingerprint": pair.fingerprint(), "kind": record.kind.as_str() });
        let event =
            NewEvent { at: now, kind: EventKind::Adopted, reason: Reason::Imported, attempt: None, detail };
        looked.events.push(self.event(&record, event));
        looked.grant = Some(grant.clone());
        looked.record = Some(record);
        looked.absent = false;
        looked.changed = true;
        (looked.reason, looked.error, looked.detail) = (Some(Reason::Imported), None, None);
        Ok(looked)
    }

    /// Puts the grant in the place of what the look has read.
    fn put(&self, held: &Held<W::Disk>, read: Option<&[u8]>, grant: &Grant) -> Result<Written, VaultError> {
        let new = authfile::write(read, grant);
        let Some(read) = read else {
            return held.make_file(&new);
        };
        if let Reading::Malformed(_) = authfile::read(read, &self.0.policy.profile) {
            let kept = held.keep_aside(read)?;
            tracing::warn!(file = %kept.display(), "the auth file was not readable; it is kept here");
        }
        held.replace_file(read, &new)
    }
}

/// Judges a grant by itself: prefixes, expiry.
pub(crate) fn judge(profile: &Profile, grant: &Grant, now: Timestamp) -> Result<(), Refused> {
    let refuse = |reason, detail: String| Err(Refused { reason, detail });
    if let Err(detail) = profile.prefixes(grant) {
        return refuse(Reason::WrongPrefix, detail);
    }
    let expired = grant.expires_at.is_some_and(|at| at <= now);
    if expired && grant.refresh.is_none() {
        return refuse(Reason::Expired, "its access token has expired, and it has no refresh token".into());
    }
    Ok(())
}

#[expect(clippy::large_enum_variant, reason = "it lives for a moment, once a look")]
enum Locked {
    Yes(Box<Result<Looked, Refused>>),
    No(Looked),
}
