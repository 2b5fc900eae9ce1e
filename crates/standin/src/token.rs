//! The token endpoint: client authentication, the three grant types, the answer's members, the log entry
//! (RFC 6749 §5 and §6, RFC 7523 §2.1).

use jiff::Timestamp;
use rand::Rng;
use serde::Serialize;

use crate::call::{Call, TokenRequest, Unreadable};
use crate::engine::{Engine, request_id};
use crate::fingerprint::Fingerprint;
use crate::grants::{How, Presented, Refusal};
use crate::log::{Exchange, ExchangeOutcome};
use crate::plan::Plan;
use crate::reply::Reply;
use crate::settings::{ClientAuth, GrantLifeMember, Member, Rotation, Settings};

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

#[derive(Serialize)]
struct Answer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token_expires_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_expires_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    organization: Option<Named<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<Named<'a>>,
}

#[derive(Serialize)]
struct Named<'a> {
    uuid: &'a str,
    name: &'static str,
}

/// Whose access token an answer gives.
enum Of<'a> {
    Family(Option<u64>),
    Nobody(Minted<'a>),
}

struct Minted<'a> {
    scopes: &'a [String],
    life: u64,
}

/// What the processing came to, for the log.
struct Done {
    reply: Reply,
    outcome: ExchangeOutcome,
    issued: Option<Fingerprint>,
}

impl Done {
    fn refused(reply: Reply) -> Self {
        Self { reply, outcome: ExchangeOutcome::Refused, issued: None }
    }
}

impl Engine {
    pub(crate) fn answer_token_call<R: Rng + ?Sized>(
        &mut self,
        call: &Call<'_>,
        plan: Plan,
        now: Timestamp,
        rng: &mut R,
    ) -> Reply {
        if call.method != "POST" {
            let mut reply = Reply::oauth_error(405, "invalid_request", "POST is the only method here", now);
            reply.headers.push(("allow", "POST".into()));
            return reply;
        }
        let settings = &self.settings;
        let capability = settings.capability.as_ref().map(|capability| capability.header.as_str());
        let read = TokenRequest::read(call, capability, settings.accepts_json, settings.accepts_form);
        self.answer_token_request(read.as_ref().map_err(|error| *error), plan, now, rng)
    }

    pub(crate) fn answer_token_request<R: Rng + ?Sized>(
        &mut self,
        request: Result<&TokenRequest, Unreadable>,
        plan: Plan,
        now: Timestamp,
        rng: &mut R,
    ) -> Reply {
        self.counters.exchanges += 1;
        let secret = |request: &TokenRequest| {
            let secret = request.refresh_token.as_deref().or(request.assertion.as_deref());
            secret.map(Fingerprint::of)
        };
        let presented = request.ok().and_then(secret);
        let id = request_id(rng);
        let done = if plan.skip {
            let reply = Reply::new(200, "application/json", "", now);
            Done { reply, outcome: ExchangeOutcome::NotProcessed, issued: None }
        } else {
            self.process(request, &plan.omit, &id, now, rng)
        };
        let fault = plan.label.clone();
        let reply = plan.shape(done.reply, &id);
        let family = presented.and_then(|print| self.grants.family_of(print));
        let exchange = Exchange {
            seq: self.counters.exchanges,
            at: now,
            presented,
            issued: done.issued,
            family,
            generation: family.and_then(|id| self.grants.families().get(&id)).map(|family| family.generation),
            outcome: done.outcome,
            fault,
            status: reply.status,
            delivered: reply.delivered(),
        };
        self.exchanges.push(exchange, self.settings.log_kept);
        reply
    }

    fn process<R: Rng + ?Sized>(
        &mut self,
        request: Result<&TokenRequest, Unreadable>,
        omit: &[Member],
        id: &str,
        now: Timestamp,
        rng: &mut R,
    ) -> Done {
        let checked = request.map_err(|error| unreadable(error, now)).and_then(|request| {
            check_client(&self.settings, request, now)?;
            check_federation(&self.settings, request, id, now)?;
            check_capability(&self.settings, request, now)?;
            Ok(request)
        });
        let request = match checked {
            Ok(request) => request,
            Err(reply) => return Done::refused(reply),
        };
        match request.grant_type.as_str() {
            "refresh_token" => self.refresh(request, omit, now, rng),
            "client_credentials" if self.settings.client.auth == ClientAuth::None => {
                let reply =
                    Reply::oauth_error(400, "unauthorized_client", "a public client has no credentials", now);
                Done::refused(reply)
            }
            "client_credentials" => self.mint(request.scope.as_deref(), omit, now, rng),
            JWT_BEARER => {
                let assertion = request.assertion.as_deref().unwrap_or_default();
                if self.settings.assertions.iter().any(|known| known == assertion) {
                    self.mint(request.scope.as_deref(), omit, now, rng)
                } else {
                    let message = "the assertion is not accepted";
                    Done::refused(Reply::api_error(401, "authentication_error", message, id, now))
                }
            }
            _ => Done::refused(Reply::oauth_error(400, "unsupported_grant_type", "unknown grant type", now)),
        }
    }

    fn refresh<R: Rng + ?Sized>(
        &mut self,
        request: &TokenRequest,
        omit: &[Member],
        now: Timestamp,
        rng: &mut R,
    ) -> Done {
        let Some(token) = request.refresh_token.as_deref() else {
            return Done::refused(Reply::oauth_error(
                400,
                "invalid_request",
                "refresh_token is missing",
                now,
            ));
        };
        match self.grants.present(&self.settings, token, now, rng, &mut self.counters) {
            Presented::Issued(issued) => {
                let outcome = match issued.how {
                    How::Rotated => {
                        self.counters.rotations += 1;
                        ExchangeOutcome::Rotated
                    }
                    How::Repeated => {
                        self.counters.repeats += 1;
                        ExchangeOutcome::Repeated
                    }
                    How::Graced => ExchangeOutcome::Graced,
                };
                let family = self.grants.family_of(Fingerprint::of(token));
                let reply = self.token_answer(
                    &issued.access_token,
                    Some(&issued.refresh_token),
                    Of::Family(family),
                    omit,
                    now,
                );
                Done { reply, outcome, issued: Some(Fingerprint::of(&issued.refresh_token)) }
            }
            Presented::Reuse => {
                let said = "the refresh token was used before";
                let reply = Reply::oauth_error(400, "invalid_grant", said, now);
                Done { reply, outcome: ExchangeOutcome::ReuseDetected, issued: None }
            }
            Presented::Refused(refusal) => {
                let said = match refusal {
                    Refusal::Unknown => "the refresh token is not known",
                    Refusal::Revoked => "the refresh token was revoked",
                    Refusal::Expired => "the refresh token has expired",
                    Refusal::Spent => "the refresh token is spent",
                };
                Done::refused(Reply::oauth_error(400, "invalid_grant", said, now))
            }
        }
    }

    fn mint<R: Rng + ?Sized>(
        &mut self,
        scope: Option<&str>,
        omit: &[Member],
        now: Timestamp,
        rng: &mut R,
    ) -> Done {
        let asked: Option<Vec<String>> =
            scope.map(|scope| scope.split_ascii_whitespace().map(str::to_owned).collect());
        if asked.iter().flatten().any(|scope| !self.settings.scopes.contains(scope)) {
            let reply = Reply::oauth_error(400, "invalid_scope", "a scope that nobody grants here", now);
            return Done::refused(reply);
        }
        let (token, life) = self.grants.mint(&self.settings, now, rng);
        let minted = Minted { scopes: asked.as_ref().unwrap_or(&self.settings.scopes), life };
        let reply = self.token_answer(&token, None, Of::Nobody(minted), omit, now);
        Done { reply, outcome: ExchangeOutcome::Minted, issued: None }
    }

    fn token_answer(
        &self,
        access_token: &str,
        refresh_token: Option<&str>,
        of: Of<'_>,
        omit: &[Member],
        now: Timestamp,
    ) -> Reply {
        let settings = &self.settings;
        let said = |member: Member| !omit.contains(&member) && !settings.omit.contains(&member);
        let (family, minted) = match of {
            Of::Family(id) => (id.and_then(|id| self.grants.families().get(&id)), None),
            Of::Nobody(minted) => (None, Some(minted)),
        };
        let rest = family
            .and_then(|family| family.grant_expires_at)
            .map(|end| u64::try_from(end.duration_since(now).as_secs()).unwrap_or(0))
            .filter(|_| said(Member::GrantLife))
            .map(|truth| settings.grant_life_said_secs.unwrap_or(truth));
        let (under_long_name, under_short_name) = match settings.grant_life_member {
            GrantLifeMember::RefreshTokenExpiresIn => (rest, None),
            GrantLifeMember::RefreshExpiresIn => (None, rest),
        };
        let scopes = minted.as_ref().map_or(&settings.scopes[..], |minted| minted.scopes);
        let scopes = family.map_or(scopes, |family| &family.scopes);
        let life = minted.as_ref().map_or(settings.lives.access_secs, |minted| minted.life);
        let life = family.map_or(life, |family| family.access_secs(settings));
        let owned =
            |member, uuid, name| (refresh_token.is_some() && said(member)).then_some(Named { uuid, name });
        let answer = Answer {
            token_type: said(Member::TokenType).then_some("Bearer"),
            access_token: said(Member::AccessToken).then_some(access_token),
            expires_in: said(Member::ExpiresIn).then_some(life),
            refresh_token: refresh_token
                .filter(|_| said(Member::RefreshToken) && settings.rotation != Rotation::NeverOmitted),
            refresh_token_expires_in: under_long_name,
            refresh_expires_in: under_short_name,
            scope: said(Member::Scope).then(|| scopes.join(" ")),
            organization: owned(Member::Organization, &settings.organization_uuid, "Stand-in Organization"),
            account: owned(Member::Account, &settings.account_uuid, "Stand-in Account"),
        };
        let mut reply = Reply::json(200, &answer, now);
        reply.headers.push(("cache-control", "no-store".into()));
        reply
    }
}

fn unreadable(error: Unreadable, now: Timestamp) -> Reply {
    let said = match error {
        Unreadable::Encoding => "the content type is not accepted",
        Unreadable::Body => "the body is not a token request",
        Unreadable::Twice => "a parameter stands there twice",
    };
    Reply::oauth_error(400, "invalid_request", said, now)
}

fn check_client(settings: &Settings, request: &TokenRequest, now: Timestamp) -> Result<(), Reply> {
    let client = &settings.client;
    let (id, secret) = match client.auth {
        ClientAuth::None => (request.client_id.as_deref(), None),
        ClientAuth::ClientSecretPost => (request.client_id.as_deref(), request.client_secret.as_deref()),
        ClientAuth::ClientSecretBasic => {
            let basic = request.basic.as_ref();
            (basic.map(|(name, _)| name.as_str()), basic.map(|(_, password)| password.as_str()))
        }
    };
    let known = client.id.is_none() || client.id.as_deref() == id;
    let proven = client.auth == ClientAuth::None || (secret.is_some() && client.secret.as_deref() == secret);
    // A workload identity proves itself by its assertion; no client stands behind it.
    if (known && proven) || request.grant_type == JWT_BEARER {
        return Ok(());
    }
    let mut reply = Reply::oauth_error(401, "invalid_client", "client authentication failed", now);
    if client.auth == ClientAuth::ClientSecretBasic {
        reply.headers.push(("www-authenticate", "Basic realm=\"stand-in\"".into()));
    }
    Err(reply)
}

/// Whatever is wrong with a workload's request is one and the same denial.
fn check_federation(
    settings: &Settings,
    request: &TokenRequest,
    id: &str,
    now: Timestamp,
) -> Result<(), Reply> {
    let Some(federation) = settings.federation.as_ref().filter(|_| request.grant_type == JWT_BEARER) else {
        return Ok(());
    };
    let as_wanted = |(name, wanted): (&String, &Option<String>)| {
        let given = request.others.get(name).filter(|given| !given.is_empty());
        given.is_some_and(|given| wanted.as_ref().is_none_or(|wanted| wanted == given))
    };
    let listed = |name: &String| federation.members.contains_key(name) || federation.optional.contains(name);
    let capable = settings.capability.as_ref().is_none_or(|capability| {
        let has = |value: &String| request.capabilities.contains(value);
        has(&capability.value) && capability.federation_value.as_ref().is_none_or(has)
    });
    let plain = !request.form && request.basic.is_none() && request.scope.is_none();
    let alone = request.client_id.is_none() && request.client_secret.is_none();
    let sound = federation.members.iter().all(as_wanted) && request.others.keys().all(listed);
    if sound && capable && plain && alone {
        return Ok(());
    }
    let message = "the workload is not accepted";
    Err(Reply::api_error(401, "authentication_error", message, id, now))
}

fn check_capability(settings: &Settings, request: &TokenRequest, now: Timestamp) -> Result<(), Reply> {
    let Some(capability) = settings.capability.as_ref().filter(|capability| capability.on_exchange) else {
        return Ok(());
    };
    let has = |value: &str| request.capabilities.iter().any(|held| held == value);
    let federated = capability.federation_value.as_deref();
    let missing = !has(&capability.value)
        || (request.grant_type == JWT_BEARER && federated.is_some_and(|value| !has(value)));
    let misplaced = request.grant_type == "refresh_token" && federated.is_some_and(has);
    if missing {
        Err(Reply::oauth_error(400, "invalid_request", "a capability is missing from the headers", now))
    } else if misplaced {
        Err(Reply::oauth_error(400, "invalid_request", "a capability does not go with this grant type", now))
    } else {
        Ok(())
    }
}
