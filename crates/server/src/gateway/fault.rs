//! What ends an exchange early, and what the client is told while nothing of an answer was sent.

use evergrant_core::Reason;
use evergrant_core::gateway::{ErrorKind, OwnError};

use super::admission::Asked;
use super::entry::Entry;
use super::forward::After;
use super::http1::{BadChunk, BadHead};
use super::own_error::too_large;

/// Why an exchange ended without a whole answer.
#[derive(Debug)]
pub(super) enum Fault {
    ClientGone,
    ClientSlow,
    BadRequest(BadChunk),
    TooLarge,
    /// The answerer closed; `true`: not a byte of an answer had come.
    Closed {
        silent: bool,
    },
    BadAnswer(BadHead),
    BadAnswerChunk(BadChunk),
    Timeout,
    /// The drain is over.
    Drained,
    /// The token is refused, and today's requests for the fallback key are used up.
    UsedUp(OwnError),
}

impl Fault {
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::ClientGone => Reason::ClientGone,
            Self::ClientSlow => Reason::SlowClient,
            Self::BadRequest(_) => Reason::BadRequest,
            Self::TooLarge => Reason::RequestTooLarge,
            Self::Closed { .. } => Reason::UpstreamClosed,
            Self::BadAnswer(_) | Self::BadAnswerChunk(_) => Reason::UpstreamMalformed,
            Self::Timeout => Reason::UpstreamTimeout,
            Self::Drained => Reason::Drained,
            Self::UsedUp(error) => error.reason,
        }
    }

    /// Nothing of an answer was sent: the client is told.
    pub(super) fn before_answer(self, asked: &Asked, entry: &mut Entry) -> After {
        let reason = self.reason();
        let (kind, message) = match self {
            Self::ClientGone => {
                entry.reason = Some(reason);
                return After::Cut;
            }
            Self::TooLarge => return After::Failed(too_large(asked.limit)),
            Self::ClientSlow => (ErrorKind::Timeout, "the request's body did not come in time".to_owned()),
            Self::BadRequest(bad) => (ErrorKind::BadRequest, bad.to_string()),
            Self::Closed { .. } => {
                (ErrorKind::BadGateway, "the provider closed the connection without an answer".to_owned())
            }
            Self::BadAnswer(bad) => {
                (ErrorKind::BadGateway, format!("the provider's answer cannot be passed on: {bad}"))
            }
            Self::BadAnswerChunk(bad) => {
                (ErrorKind::BadGateway, format!("the provider's answer cannot be passed on: {bad}"))
            }
            Self::Timeout => (ErrorKind::GatewayTimeout, "the provider did not answer in time".to_owned()),
            Self::Drained => {
                let message = "the server ends before the provider has answered: send the request again";
                (ErrorKind::Unavailable, message.to_owned())
            }
            Self::UsedUp(error) => return After::Failed(error),
        };
        After::Failed(if kind == ErrorKind::BadRequest {
            OwnError::lasting(kind, reason, message)
        } else {
            OwnError::passing(kind, reason, message, None)
        })
    }
}
