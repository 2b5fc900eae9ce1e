//! What the agent works with, as the app gives it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use evergrant_core::ChainName;
use evergrant_core::alert::render::{OutgoingRequest, Rendered, render};
use evergrant_core::alert::sink::Sink;
use evergrant_core::alert::{Alert, Links};
use evergrant_core::push::agent::Periods;
use jiff::Timestamp;
use url::Url;

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
    /// The key of scope `push` for it: a key is one chain's.
    pub key: KeySource,
}

/// What becomes of an alert: what each sink is sent.
type Render = dyn Fn(&Alert, Timestamp) -> Vec<SinkRequest> + Send + Sync;

/// The sinks that the agent may call by itself.
#[derive(Clone)]
pub struct Sinks(Arc<Render>);

impl Sinks {
    /// By what makes requests out of an alert.
    pub fn new(render: impl Fn(&Alert, Timestamp) -> Vec<SinkRequest> + Send + Sync + 'static) -> Self {
        Self(Arc::new(render))
    }

    /// Those of the configuration. Mail is the server's: the agent sends none.
    pub fn of(sinks: Vec<Sink>) -> Self {
        Self::new(move |alert, now| {
            let wanted = sinks.iter().filter(|sink| sink.wants(alert));
            wanted.filter_map(|sink| SinkRequest::of(sink, alert, now)).collect()
        })
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

/// What one sink is sent for one alert.
#[derive(Debug, Clone)]
pub struct SinkRequest {
    /// The sink's name.
    pub sink: String,
    /// The requests, one after the other.
    pub requests: Vec<OutgoingRequest>,
    /// An alert that stays open is posted again at every look: the sink forgets it otherwise.
    pub repeated: bool,
    /// Plain HTTP beyond loopback is accepted.
    pub allow_insecure: bool,
    /// Certificates that are trusted in place of the public ones.
    pub ca_file: Option<PathBuf>,
}

impl SinkRequest {
    fn of(sink: &Sink, alert: &Alert, now: Timestamp) -> Option<Self> {
        match render(sink, alert, now) {
            Rendered::Requests(requests) => Some(Self {
                sink: sink.name.clone(),
                requests,
                repeated: sink.repost_every().is_some(),
                allow_insecure: sink.allow_insecure,
                ca_file: sink.ca_file.clone(),
            }),
            Rendered::Email(_) => None,
        }
    }
}
