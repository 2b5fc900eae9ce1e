//! What the agent works with, as the app gives it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use evergrant_core::ChainName;
use evergrant_core::alert::{Alert, Links};
use evergrant_core::push::agent::Periods;
use jiff::Timestamp;
use url::Url;
use zeroize::Zeroizing;

use crate::entry::Entry;
use crate::key::KeySource;
use crate::notify::Notifier;

/// Everything that the agent needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder of what it keeps.
    pub folder: PathBuf,
    /// The server's address.
    pub server: Url,
    /// The key of scope `push`.
    pub key: KeySource,
    /// Certificates (PEM) that are trusted besides the public ones.
    pub ca_file: Option<PathBuf>,
    /// The workstation's name.
    pub host: String,
    /// The chains.
    pub chains: Vec<ChainSettings>,
    /// How a person at the workstation is told.
    pub notifier: Notifier,
    /// How an alert of the agent's own becomes requests to the sinks.
    pub sinks: Sinks,
    /// Where such an alert points to.
    pub links: Links,
    /// How often it looks and beats.
    pub periods: Periods,
}

/// One chain that the agent serves.
#[derive(Debug, Clone)]
pub struct ChainSettings {
    /// Its name.
    pub name: ChainName,
    /// Where its login lies.
    pub entry: Entry,
}

/// What becomes of an alert: one request for each sink.
type Render = dyn Fn(&Alert, Timestamp) -> Vec<SinkRequest> + Send + Sync;

/// The sinks that the agent may call by itself.
#[derive(Clone)]
pub struct Sinks(Arc<Render>);

impl Sinks {
    /// By what makes requests out of an alert.
    pub fn new(render: impl Fn(&Alert, Timestamp) -> Vec<SinkRequest> + Send + Sync + 'static) -> Self {
        Self(Arc::new(render))
    }

    /// None.
    pub fn none() -> Self {
        Self::new(|_, _| Vec::new())
    }

    pub(crate) fn requests(&self, alert: &Alert, now: Timestamp) -> Vec<SinkRequest> {
        (self.0)(alert, now)
    }
}

impl fmt::Debug for Sinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sinks(…)")
    }
}

/// A request to one sink. Its address and headers may be secret, so it does not print them.
#[derive(Clone)]
pub struct SinkRequest {
    /// The sink's name.
    pub sink: String,
    /// Where to.
    pub url: Zeroizing<String>,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// What is posted.
    pub body: Vec<u8>,
}

impl fmt::Debug for SinkRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkRequest").field("sink", &self.sink).finish_non_exhaustive()
    }
}
