//! The stand-in provider: an OAuth authorization server and the API that it guards, good enough to be believed
//! (SPEC §3, §7, §8). [`Engine`] is a pure state machine over calls, the time and randomness; [`StandIn`] puts it on
//! a loopback socket and really loses requests, loses answers and cuts bodies there.
//!
//! It imports no other room, so that it shares no mistake with them, and it holds no constant of any provider:
//! prefixes, client id and capability come with the [`Settings`].

mod admin;
mod api;
mod call;
mod engine;
mod fault;
mod fingerprint;
mod gate;
mod grants;
mod handle;
mod log;
mod login;
mod plan;
mod reply;
mod server;
mod settings;
mod token;
mod transport;

pub use admin::{INDEX, PREFIX as ADMIN_PREFIX};
pub use api::ObjectRules;
pub use call::{Call, TokenRequest};
pub use engine::{Arrival, Endpoint, Engine, FamilyState, State};
pub use fault::{Fault, FaultBody, FaultTarget, Rule};
pub use fingerprint::Fingerprint;
pub use grants::AccessState;
pub use handle::{Handle, Streams};
pub use log::{Counters, Exchange, ExchangeOutcome, Sighting, Source};
pub use login::{Login, LoginOptions};
pub use reply::{Body, Reply, Transport};
pub use server::{StandIn, StartError};
pub use settings::{
    Capability, Client, ClientAuth, Federation, GraceSuccessor, GrantLifeMember, Lives, Member, ReuseClass,
    Rotation, Settings, SettingsError, Streaming,
};
