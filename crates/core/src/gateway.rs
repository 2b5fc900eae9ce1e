//! What the gateway decides: whether a path is lent a token, which source serves a request, what an answer says
//! about that source, and what follows (SPEC §7). Providers are data here; the code knows none.

mod answer;
mod error;
mod rules;
mod source;
#[cfg(test)]
mod tests;

pub use answer::{Meaning, Next, Refused, next};
pub use error::{ErrorKind, ErrorShape, OwnError};
pub use rules::{AnswerRule, ContentType, Injection, PathRule, Route, Rules};
pub use source::{Choice, Fallback, FallbackOn, Position, Source, Spent, choose, spend};
