//! `/api/v1/admin/system/token-push`: takes push events, and says how the push track stands (SPEC §5, §9).

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State as Extract};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use evergrant_core::audit::{Act, Actor, AuditEntry};
use evergrant_core::caller::Scope;
use evergrant_core::gateway::Source;
use evergrant_core::grant::Grant;
use evergrant_core::health::{AgentSeen, Outcome, PushSeen, group_status};
use evergrant_core::probe::Verdict;
use evergrant_core::push::{self, Answer, Call, Message, PushKind, Refusal};
use evergrant_core::{ChainName, Reason};
use evergrant_store::{HealthState, VaultState};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::read_up_to;
use crate::admin::{Admin, AdminChain, Authorized, Problem, Push};
use crate::caller::presented_key;
use crate::health::{self, Watched as _};
use crate::keeper::Import;
use crate::probe::probe_token;
use crate::renewable::{Pass, Renewable as _};
use crate::world::World as _;

/// An agent that has to wait comes again after so long.
const AGAIN_SECS: u64 = 30;

pub(super) fn router<S: HealthState + VaultState>() -> Router<Admin<S>> {
    Router::new()
        .route("/", post(push::<S>))
        .route("/status", get(status::<S>))
        .route("/last-seen", get(last_seen::<S>))
}

/// Which chain is meant; `claude`, or the only one, if none is named.
#[derive(Debug, Deserialize)]
struct OfChain {
    chain: Option<ChainName>,
}

impl OfChain {
    async fn find<S: HealthState + VaultState>(self, admin: &Admin<S>) -> Result<AdminChain<S>, Problem> {
        let name = admin.chains.meant(self.chain).map_err(|error| unknown(error.to_string()))?;
        admin.chains.get(&name).await?.ok_or_else(|| unknown(format!("there is no chain {name}")))
    }
}

fn unknown(detail: String) -> Problem {
    Problem::with(StatusCode::NOT_FOUND, Reason::ChainUnknown, detail)
}

async fn push<S: HealthState + VaultState>(
    Extract(admin): Extract<Admin<S>>,
    who: Result<Authorized<Push>, Problem>,
    of: Result<Query<OfChain>, QueryRejection>,
    request: Request,
) -> Result<Response, Problem> {
    // Whoever may not push makes no event, and nothing that would grow with every try.
    let who = match who {
        Ok(who) => who,
        Err(problem) => {
            admin.metrics.push_refused(problem.reason());
            return Err(problem);
        }
    };
    if let Err(limit) = who.known.admit_push(admin.world.monotonic()) {
        admin.metrics.push_refused(Reason::RateLimited);
        return Err(limit.into());
    }
    let name = &who.known.caller.chain;
    let is_of_key = |named: Option<&ChainName>| match named {
        Some(named) if named != name => {
            let detail = format!("this key pushes to chain {name} only: use one that names the other chain");
            Err(Problem::with(StatusCode::FORBIDDEN, Reason::ScopeMissing, detail))
        }
        Some(_) | None => Ok(()),
    };
    is_of_key(asked_for(of)?.chain.as_ref())?;
    // The first grant may be what is pushed.
    let chain = admin.chains.get_for_grant(name).await?;
    let chain = chain.ok_or_else(|| unknown(format!("there is no chain {name}")))?;
    let taking = Taking { admin: &admin, chain: &chain, who: who.actor() };
    let Some(body) = read_up_to(push::MAX_LEN, request.into_body()).await else {
        let detail = format!("a push event is at most {} KiB long", push::MAX_LEN / 1024);
        return taking.refuse(None, Refusal::new(Reason::BodyTooLarge, detail)).await;
    };
    let call = match Call::decode(&body) {
        Ok(call) => call,
        Err(fault) => {
            return taking.refuse(None, Refusal::new(fault.reason(), fault.to_string())).await;
        }
    };
    is_of_key(call.message.chain.as_ref())?;
    taking.take(call).await
}

/// One push event on its way in.
struct Taking<'t, S: HealthState + VaultState> {
    admin: &'t Admin<S>,
    chain: &'t AdminChain<S>,
    who: Actor,
}

impl<S: HealthState + VaultState> Taking<'_, S> {
    async fn take(&self, call: Call) -> Result<Response, Problem> {
        let judged = self.judge(&call).await?;
        let taken = match (judged, call.grant.clone()) {
            (Err(refusal), _) => Err(refusal),
            (Ok(()), None) => {
                let reason = call.message.reason.unwrap_or(Reason::Beat);
                let outcome = Outcome::of_beat(&call.message);
                return self.answer(&call.message, Reason::Beat, (outcome, reason), None).await;
            }
            (Ok(()), Some(grant)) => self.adopt(grant).await?,
        };
        match taken {
            Err(refusal) => self.refuse(Some(&call.message), refusal).await,
            Ok(reason) => {
                // An answer that was lost may have been the one that it came with.
                let new = matches!(reason, Reason::Accepted | Reason::SameGrant);
                if reason == Reason::Accepted {
                    let (at, to) = (self.admin.world.now(), self.chain.chain.chain().to_string());
                    let entry = AuditEntry { at, who: self.who.clone(), what: Act::GrantPushed, to };
                    self.admin.world.state().add_audit(&entry).await?;
                }
                let identity = call.identity.as_ref().filter(|_| new);
                self.answer(&call.message, reason, (Outcome::Good, reason), identity).await
            }
        }
    }

    /// What can be said without the provider.
    async fn judge(&self, call: &Call) -> Result<Result<(), Refusal>, Problem> {
        let (world, chain) = (&self.admin.world, &self.chain.chain);
        let (state, name, now) = (world.state(), chain.chain(), world.now());
        let accepted = chain.login("push").map_or(true, |login| login.accepted());
        if let Err(refusal) = push::judge(call, chain.profile(), chain.kind, accepted, now) {
            return Ok(Err(refusal));
        }
        if !state.take_nonce(name, &call.message.nonce, now).await? {
            let detail = "this message was sent before; every message needs a nonce of its own";
            return Ok(Err(Refusal::new(Reason::NonceSeen, detail)));
        }
        let Some(grant) = &call.grant else { return Ok(Ok(())) };
        if state.was_replaced(name, grant.pair().fingerprint()).await? {
            let detail = "the chain has replaced this pair already, so it is worth nothing: log in again";
            return Ok(Err(Refusal::new(Reason::GrantSpent, detail)));
        }
        let known = state.identity(name).await?;
        let how = "evergrant agent push --accept-new-identity";
        Ok(push::same_identity(known.as_ref(), call.identity.as_ref(), call.accept_new_identity, how))
    }

    /// Proves that a grant works, and makes it the chain's.
    async fn adopt(&self, grant: Grant) -> Result<Result<Reason, Refusal>, Problem> {
        let chain = &self.chain.chain;
        let login = match chain.login("push") {
            Ok(login) => login,
            Err(detail) => return Ok(Err(Refusal::new(Reason::NothingToPush, detail))),
        };
        let present = chain.last_report().is_some_and(|report| report.token_present);
        if present && chain.record().is_some_and(|record| record.pair == grant.pair()) {
            return Ok(Ok(Reason::SameGrant));
        }
        let pass = Pass::AccessToken(grant.access.clone());
        let probed = probe_token(chain.world.client(), chain.profile(), &pass, None).await;
        match probed.verdict {
            Verdict::Works | Verdict::Limited => {}
            Verdict::Refused => {
                let detail = "the API refuses this login's access token: log in again";
                return Ok(Err(Refusal::new(Reason::ProbeRefused, detail)));
            }
            Verdict::Unavailable => {
                let detail = "the API did not answer the probe of this login; it is tried again";
                return Ok(Err(Refusal::new(Reason::ProbeUnavailable, detail)));
            }
        }
        Ok(match login.import(grant).await {
            Import::Taken(report) if report.reason == Reason::SameGrant => Ok(Reason::SameGrant),
            Import::Taken(_) => Ok(Reason::Accepted),
            Import::Refused(refused) => Err(Refusal::new(refused.reason, refused.detail)),
        })
    }

    async fn answer(
        &self,
        message: &Message,
        did: Reason,
        (outcome, reason): (Outcome, Reason),
        identity: Option<&push::Identity>,
    ) -> Result<Response, Problem> {
        self.write_down(Some(message), outcome, reason, identity).await?;
        let (name, now) = (self.chain.chain.chain(), self.admin.world.now());
        let (status, since) = overall(self.admin, self.chain, now).await?;
        // One that no section names is not watched: it is as it was found.
        let found = self.admin.chains.get(name).await?;
        let record = found.as_ref().unwrap_or(self.chain).chain.record();
        let answer = Answer {
            chain: name.clone(),
            reason: did,
            status: status.to_owned(),
            since,
            fingerprint: record.as_ref().map(|record| record.pair.fingerprint()),
            now,
            lineage: record.as_ref().map(|record| record.lineage),
            generation: record.as_ref().map(|record| record.generation),
        };
        Ok(Json(answer).into_response())
    }

    async fn refuse(&self, message: Option<&Message>, refusal: Refusal) -> Result<Response, Problem> {
        let kind = message.map_or(PushKind::Push, |message| message.kind);
        if let Some(outcome) = push::outcome_of_refusal(kind, refusal.reason) {
            self.write_down(message, outcome, refusal.reason, None).await?;
        }
        let again = [Reason::AgentClockSkew, Reason::NonceSeen];
        let status = if refusal.reason == Reason::BodyTooLarge {
            StatusCode::PAYLOAD_TOO_LARGE
        } else if refusal.reason == Reason::RequestInvalid {
            StatusCode::BAD_REQUEST
        } else if push::is_final(refusal.reason) || again.contains(&refusal.reason) {
            StatusCode::UNPROCESSABLE_ENTITY
        } else {
            let later = Problem::with(StatusCode::SERVICE_UNAVAILABLE, refusal.reason, refusal.detail);
            return Err(later.retry_after(AGAIN_SECS));
        };
        Err(Problem::with(status, refusal.reason, refusal.detail))
    }

    /// The event, for the dead-man and for the ledger; the monitor looks at it at once.
    async fn write_down(
        &self,
        message: Option<&Message>,
        outcome: Outcome,
        reason: Reason,
        identity: Option<&push::Identity>,
    ) -> Result<(), Problem> {
        let (chain, at) = (&self.chain.chain, self.admin.world.now());
        let kind = message.map_or(PushKind::Push, |message| message.kind);
        let agent = match message {
            Some(message) => AgentSeen::of(message, reason, at),
            None => AgentSeen::new("unknown", reason, at),
        };
        let seen = PushSeen { at, kind, outcome, reason, agent };
        let report = chain.last_report();
        let position = report.and_then(|report| Some((report.lineage?, report.generation?)));
        let event = seen.event(chain.chain(), position.unwrap_or_default());
        self.admin.world.state().add_push(&seen, &event, identity).await?;
        self.admin.metrics.pushed(chain.chain(), reason);
        tracing::info!(
            chain = %chain.chain(), kind = kind.as_str(), %reason, agent = seen.agent.id, host = seen.agent.host,
            "a push event"
        );
        self.admin.chains.poke();
        Ok(())
    }
}

/// The status of the group `token_push`: the worst of it that holds.
async fn overall<S: HealthState + VaultState>(
    admin: &Admin<S>,
    chain: &AdminChain<S>,
    now: Timestamp,
) -> Result<(&'static str, Option<Timestamp>), Problem> {
    let name = chain.chain.chain();
    let open = admin.world.state().open_episodes(Some(name)).await?;
    let standing = health::standing(admin.world.state(), name, chain.expected(), now).await?;
    Ok(group_status(&open, standing.push))
}

/// The word of SPEC §1.
fn source_of<S: HealthState + VaultState>(chain: &AdminChain<S>, now: Timestamp) -> Source {
    health::serving(&chain.chain, &chain.snapshots, chain.fallback.as_ref(), now).source
}

async fn status<S: HealthState + VaultState>(
    Extract(admin): Extract<Admin<S>>,
    of: Result<Query<OfChain>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let now = admin.world.now();
    // Whoever presents a key wants all of it, and is told if the key is not good for that.
    let whole = match presented_key(&headers) {
        None => false,
        Some(key) => {
            let table = admin.callers.table();
            let known = table.authorize(Some(key), Scope::AdminRead, now);
            known.map_err(|reason| super::authorized::refused(reason, Scope::AdminRead))?;
            true
        }
    };
    let chain = asked_for(of)?.find(&admin).await?;
    let (status, since) = overall(&admin, &chain, now).await?;
    let mut shown = json!({ "status": status, "since": since, "source": source_of(&chain, now).as_str() });
    if whole {
        let standing =
            health::standing(admin.world.state(), chain.chain.chain(), chain.expected(), now).await?;
        let facts = &standing.facts;
        let report = chain.chain.last_report();
        let more = json!({
            "chain": chain.chain.chain(),
            "lineage": report.as_ref().and_then(|report| report.lineage),
            "generation": report.as_ref().and_then(|report| report.generation),
            "shown_prefix": shown_prefix(&chain),
            "expires_at": report.as_ref().and_then(|report| report.expires_at),
            "tracked": standing.tracked,
            "last_event_at": facts.last_at,
            "last_success_at": facts.last_good_at,
            "last_failure_at": facts.last_failure_at,
            "counts": { "events": facts.events, "accepted": facts.accepted, "failed": facts.failed },
            "failure_streak": facts.streak,
            "agents": facts.agents,
            "episodes": admin.world.state().open_episodes(Some(chain.chain.chain())).await?,
        });
        merge(&mut shown, more);
    }
    Ok(Json(shown).into_response())
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

/// The fixed prefix of the access token and 4 characters.
pub(super) fn shown_prefix<S: HealthState + VaultState>(chain: &AdminChain<S>) -> Option<String> {
    let current = chain.snapshots.current(chain.chain.chain())?;
    let profile = chain.chain.profile();
    let fixed = if chain.chain.is_api_key() { &profile.api_key_prefix } else { &profile.access_prefix };
    Some(current.access.shown(fixed.as_deref()))
}

fn asked_for(of: Result<Query<OfChain>, QueryRejection>) -> Result<OfChain, Problem> {
    of.map(|Query(of)| of).map_err(|_| Problem::invalid("chain is the name of a chain"))
}

async fn last_seen<S: HealthState + VaultState>(
    Extract(admin): Extract<Admin<S>>,
    of: Result<Query<OfChain>, QueryRejection>,
) -> Result<Response, Problem> {
    let (chain, now) = (asked_for(of)?.find(&admin).await?, admin.world.now());
    let standing = health::standing(admin.world.state(), chain.chain.chain(), chain.expected(), now).await?;
    let last = standing.facts.last_at;
    let (status, _) = overall(&admin, &chain, now).await?;
    Ok(Json(json!({
        "last_seen_at": last,
        "seconds_ago": last.map(|at| now.duration_since(at).as_secs()),
        "status": status,
    }))
    .into_response())
}
