//! Who calls, and whether the key's scope covers it: a handler names the scope as a type and is not run without.

use std::marker::PhantomData;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use evergrant_core::Reason;
use evergrant_core::audit::Actor;
use evergrant_core::caller::Scope;
use evergrant_store::VaultState;

use crate::admin::{Admin, Problem};
use crate::caller::{KnownCaller, Permit, presented_key};
use crate::world::World;

/// A scope as a type.
pub trait Needs: Send + 'static {
    /// Which one.
    const SCOPE: Scope;
}

macro_rules! needs {
    ($($(#[$doc:meta])* $name:ident = $scope:expr;)+) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy)]
            pub struct $name;

            impl Needs for $name {
                const SCOPE: Scope = $scope;
            }
        )+
    };
}

needs! {
    /// What needs `push`.
    Push = Scope::Push;
    /// What needs `admin:read`.
    AdminRead = Scope::AdminRead;
    /// What needs `admin:write`.
    AdminWrite = Scope::AdminWrite;
    /// What needs `token:read`.
    TokenRead = Scope::TokenRead;
}

/// The caller of a call whose key has the scope `N`; it has its place among the caller's requests until this is
/// dropped. Cookies are never looked at.
#[derive(Debug)]
pub struct Authorized<N> {
    /// Who calls.
    pub known: Arc<KnownCaller>,
    _permit: Permit,
    _needs: PhantomData<N>,
}

impl<N> Authorized<N> {
    /// The caller, for the audit.
    pub fn actor(&self) -> Actor {
        Actor::key(&self.known.caller.id)
    }
}

impl<S: VaultState, N: Needs> FromRequestParts<Admin<S>> for Authorized<N> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin<S>) -> Result<Self, Problem> {
        let table = admin.callers.table();
        let presented = presented_key(&parts.headers);
        let known = table.authorize(presented, N::SCOPE, admin.world.now());
        let known = known.map_err(|reason| refused(reason, N::SCOPE))?;
        let permit = known.admit(admin.world.monotonic())?;
        Ok(Self { known: known.clone(), _permit: permit, _needs: PhantomData })
    }
}

pub(super) fn refused(reason: Reason, needed: Scope) -> Problem {
    if reason == Reason::ScopeMissing {
        let detail =
            format!("the caller key lacks the scope {needed}; use one that was made with --scope {needed}");
        return Problem::with(StatusCode::FORBIDDEN, reason, detail);
    }
    let next = if reason == Reason::CallerMissing {
        "send one as X-CM-API-Key, x-api-key or Authorization: Bearer"
    } else {
        "`evergrant keys create` on the server's machine makes another"
    };
    Problem::with(StatusCode::UNAUTHORIZED, reason, format!("{} Next: {next}.", reason.sentence()))
}
