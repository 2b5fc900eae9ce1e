//! One round for one chain: look, remember, decide, send, and remember what came of it (SPEC §5).

use std::sync::Mutex;
use std::time::Duration;

use evergrant_core::grant::Grant;
use evergrant_core::push::agent::{About, Contact, Decision, Holds, Memory, Notice, Sent, decide};
use evergrant_core::push::{Absence, Call, Local, Message, PushKind};
use evergrant_core::{ChainName, Fingerprint, Reason};
use jiff::Timestamp;
use rand::RngExt as _;
use serde::Serialize;

use crate::entry::Found;
use crate::memory::Folder;
use crate::send::{Client, Outcome, post_to_sink};
use crate::settings::{ChainSettings, Settings};
use crate::{AgentError, absence, clock};

/// A round holds the memory for less than this.
const MOST_WAIT: Duration = Duration::from_secs(120);

/// The agent, ready for rounds.
#[derive(Debug)]
pub struct Agent {
    settings: Settings,
    client: Client,
    folder: Folder,
    id: String,
    /// Memories that could not be written down: they go before what is on the disk.
    unwritten: Mutex<Vec<(ChainName, Memory)>>,
}

/// What a round is for.
#[derive(Debug, Clone)]
pub enum Ask {
    /// The periodic one; the workstation may have slept before it.
    Look {
        /// It did.
        woke: bool,
    },
    /// Say that the agent lives, or push what waits, now.
    Now,
    /// Push the entry's grant, whatever its age.
    Push {
        /// Another account than before is meant.
        accept_new_identity: bool,
    },
    /// Push a grant that a command printed.
    Given {
        /// The grant.
        grant: Box<Grant>,
        /// Another account than before is meant.
        accept_new_identity: bool,
    },
}

/// What a round did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The chain.
    pub chain: ChainName,
    /// Nothing went wrong.
    pub ok: bool,
    /// What was sent; nothing: there was no need.
    pub sent: Option<PushKind>,
    /// Of a message: what the server did with it, or why it did nothing. Else why nothing was sent.
    pub reason: Reason,
    /// More about it, for a person.
    pub detail: Option<String>,
    /// Where the entry lies.
    pub entry: Option<String>,
    /// Of the grant in it.
    pub fingerprint: Option<Fingerprint>,
    /// When it was written.
    pub modified_at: Option<Timestamp>,
    /// A grant waits to be pushed.
    pub pending: bool,
    /// The push track's status at the server, as far as known.
    pub status: Option<String>,
    /// When the server last heard something.
    pub last_contact: Option<Timestamp>,
    /// When the agent acts next, where one runs.
    pub next_at: Timestamp,
}

impl Report {
    /// For the log of an agent that runs by itself.
    pub(crate) fn log(&self) {
        let (chain, reason, detail) = (&self.chain, self.reason, self.detail.as_deref().unwrap_or_default());
        let entry = self.entry.as_deref().unwrap_or_default();
        match (self.sent.map(PushKind::as_str), self.ok) {
            (None, _) => {
                tracing::debug!(%chain, entry, %reason, pending = self.pending, detail, "nothing had to be sent");
            }
            (Some(sent), true) => tracing::info!(%chain, sent, %reason, "the server heard the agent"),
            (Some(sent), false) => tracing::warn!(%chain, sent, %reason, detail, "it was not done"),
        }
    }
}

/// What is to be sent.
struct Outgoing {
    kind: PushKind,
    grant: Option<Grant>,
    reason: Option<Reason>,
    refused: Option<Reason>,
    accept_new_identity: bool,
    /// The grant is the entry's, so that the memory keeps what becomes of it.
    of_entry: bool,
}

impl Agent {
    /// With these settings.
    pub fn new(settings: Settings) -> Result<Self, AgentError> {
        let client = Client::new(&settings.server, settings.ca_file.as_deref())?;
        let folder = Folder::open(&settings.folder)?;
        let id = folder.agent_id()?;
        Ok(Self { settings, client, folder, id, unwritten: Mutex::default() })
    }

    /// What it works with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The way to its server.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Does one round.
    pub fn round(&self, chain: &ChainSettings, ask: &Ask) -> Result<Report, AgentError> {
        let _held = self.folder.hold(&chain.name, MOST_WAIT)?;
        let absence = self.absence();
        let before = self.remembered(&chain.name)?;
        let mut memory = before.clone();
        let found = chain.entry.look();
        let now = clock::now();
        if matches!(ask, Ask::Look { woke: true }) {
            memory.woke(now);
        }
        memory.look(&found.sight, now);
        if let (Ask::Push { accept_new_identity }, Some(fingerprint)) = (ask, found.sight.grant()) {
            memory.ask_for(fingerprint, *accept_new_identity, now);
        }
        // Before anything is sent: whoever comes after a death here knows what waits.
        let looked = self.keep(chain, &before, &memory);
        let outgoing = self.outgoing(ask, &found, &memory, absence.as_ref(), now);
        let mut report = self.report(chain, &found, &memory, now);
        let Some(outgoing) = outgoing else {
            self.speak(chain, &mut memory, absence.as_ref());
            self.keep(chain, &looked, &memory);
            return Ok(report);
        };
        let outcome = self.send(chain, &outgoing, &found, &memory, absence.clone(), now);
        let sent = Sent {
            kind: outgoing.kind,
            fingerprint: outgoing.grant.filter(|_| outgoing.of_entry).map(|grant| grant.pair().fingerprint()),
            absence: absence.clone(),
        };
        memory.settle(&sent, &outcome.contact, clock::now());
        let settled = self.keep(chain, &looked, &memory);
        self.speak(chain, &mut memory, absence.as_ref());
        self.keep(chain, &settled, &memory);
        report = Report {
            sent: Some(sent.kind),
            detail: outcome.said,
            ..self.report(chain, &found, &memory, clock::now())
        };
        (report.ok, report.reason) = match outcome.contact {
            Contact::Taken(answer) => (true, answer.reason),
            Contact::Refused(reason) | Contact::Postponed { reason, .. } | Contact::Failed { reason, .. } => {
                (false, reason)
            }
        };
        Ok(report)
    }

    /// What is announced; one that cannot be read is none.
    fn absence(&self) -> Option<Absence> {
        absence::announced(&self.folder, clock::now()).unwrap_or_else(|error| {
            tracing::warn!(%error, "the announced absence does not count");
            None
        })
    }

    /// What is to be sent, if anything.
    fn outgoing(
        &self,
        ask: &Ask,
        found: &Found,
        memory: &Memory,
        absence: Option<&Absence>,
        now: Timestamp,
    ) -> Option<Outgoing> {
        let push = |grant: Grant, of_entry, accept_new_identity| Outgoing {
            kind: PushKind::Push,
            grant: Some(grant),
            reason: None,
            refused: None,
            accept_new_identity,
            of_entry,
        };
        let beat = |(reason, refused)| Outgoing {
            kind: PushKind::Beat,
            grant: None,
            reason: Some(reason),
            refused,
            accept_new_identity: false,
            of_entry: true,
        };
        match ask {
            Ask::Given { grant, accept_new_identity } => {
                Some(push(Grant::clone(grant), false, *accept_new_identity))
            }
            // Nothing to push: the caller says so, and no beat hides it.
            Ask::Push { accept_new_identity } => Some(push(found.grant.clone()?, true, *accept_new_identity)),
            Ask::Now => Some(match found.grant.clone().filter(|_| memory.has_pending(&found.sight)) {
                Some(grant) => push(grant, true, memory.accepts_new_identity()),
                None => beat(memory.why_no_push(&found.sight)),
            }),
            Ask::Look { .. } => match decide(&found.sight, memory, absence, now, self.settings.periods) {
                Decision::Push => Some(push(found.grant.clone()?, true, memory.accepts_new_identity())),
                Decision::Beat { reason, refused } => Some(beat((reason, refused))),
                Decision::Wait { .. } => None,
            },
        }
    }

    fn send(
        &self,
        chain: &ChainSettings,
        outgoing: &Outgoing,
        found: &Found,
        memory: &Memory,
        absence: Option<Absence>,
        now: Timestamp,
    ) -> Outcome {
        let key = match chain.key.key() {
            Ok(key) => key,
            Err(error) => {
                let contact = Contact::Failed { reason: Reason::CallerMissing, retry_after_secs: None };
                return Outcome { contact, said: Some(error.to_string()) };
            }
        };
        let is_push = outgoing.kind == PushKind::Push;
        let call = Call {
            message: Message {
                kind: outgoing.kind,
                chain: Some(chain.name.clone()),
                agent_id: self.id.clone(),
                host: self.settings.host.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                sent_at: now,
                nonce: nonce(),
                local: Local {
                    entry: found.sight.entry.clone(),
                    fingerprint: found.sight.grant(),
                    modified_at: found.sight.modified_at,
                    config_dir: chain.entry.config_dir.clone(),
                },
                reason: outgoing.reason,
                refused: outgoing.refused,
                pending: memory.has_pending(&found.sight),
                blind_since: memory.blind_since,
                failures: memory.failures.clone(),
                absence,
            },
            grant: outgoing.grant.clone(),
            identity: found.identity.clone().filter(|_| is_push && outgoing.of_entry),
            accept_new_identity: outgoing.accept_new_identity,
        };
        self.client.send(&key, &chain.name, &call)
    }

    fn report(&self, chain: &ChainSettings, found: &Found, memory: &Memory, now: Timestamp) -> Report {
        Report {
            chain: chain.name.clone(),
            ok: matches!(found.sight.holds, Holds::Grant(_)),
            sent: None,
            reason: memory.why_no_push(&found.sight).0,
            detail: found.fault.clone(),
            entry: found.sight.entry.clone(),
            fingerprint: found.sight.grant(),
            modified_at: found.sight.modified_at,
            pending: memory.has_pending(&found.sight),
            status: memory.status.clone(),
            last_contact: memory.last_contact,
            next_at: memory.next_wakeup(now, self.settings.periods).0,
        }
    }

    /// Tells the person at the workstation and the sinks what the server does not hear.
    fn speak(&self, chain: &ChainSettings, memory: &mut Memory, absence: Option<&Absence>) {
        let (now, name, host) = (clock::now(), &chain.name, &self.settings.host);
        let notice = memory.take_stock(name, &self.id, absence, now, self.settings.periods);
        match notice {
            Some(Notice::Opened(streak)) => {
                tracing::warn!(chain = %name, reason = %streak.reason, failures = streak.count, "the server does not hear the agent");
                let why = streak.reason.sentence();
                let text = format!("The server has not heard this workstation since {}. {why}", streak.first);
                self.settings.notifier.tell(&format!("Evergrant: chain {name}"), &text);
            }
            Some(Notice::Closed) => {
                tracing::info!(chain = %name, "the server hears the agent again");
                let text = "The server hears this workstation again.";
                self.settings.notifier.tell(&format!("Evergrant: chain {name}"), text);
            }
            None => {}
        }
        let provider = &chain.entry.profile.name;
        let about = About { chain: name, provider, host, links: &self.settings.links };
        if let Some(alert) = memory.alert(&about, now) {
            for request in self.settings.sinks.requests(&alert, now) {
                let told = |memory: &Memory| {
                    memory.trouble.as_ref().is_some_and(|trouble| trouble.told.contains(&request.sink))
                };
                if (request.repeated || !told(memory))
                    && delivered(&request.sink, post_to_sink(&request))
                    && let Some(trouble) = &mut memory.trouble
                {
                    trouble.told.insert(request.sink);
                }
            }
        }
        let closing = std::mem::take(&mut memory.closing);
        for mut closing in closing {
            let alert = about.closing(&closing, memory, now);
            let requests = self.settings.sinks.requests(&alert, now);
            let left = |sink: &String| requests.iter().any(|request| request.sink == *sink);
            closing.trouble.told.retain(left);
            for request in requests
                .iter()
                .filter(|request| closing.trouble.told.contains(&request.sink))
                .collect::<Vec<_>>()
            {
                if delivered(&request.sink, post_to_sink(request)) {
                    closing.trouble.told.remove(&request.sink);
                }
            }
            if !closing.trouble.told.is_empty() {
                memory.closing.push(closing);
            }
        }
    }

    fn remembered(&self, chain: &ChainName) -> Result<Memory, AgentError> {
        let unwritten = self.unwritten();
        let kept = unwritten.iter().find(|(name, _)| name == chain).map(|(_, memory)| memory.clone());
        drop(unwritten);
        match kept {
            Some(memory) => Ok(memory),
            None => self.folder.load(chain),
        }
    }

    /// Writes the memory down; where that fails it is kept in this process. Says what was last written.
    fn keep(&self, chain: &ChainSettings, before: &Memory, memory: &Memory) -> Memory {
        let mut unwritten = self.unwritten();
        let was_unwritten = unwritten.iter().any(|(name, _)| *name == chain.name);
        unwritten.retain(|(name, _)| *name != chain.name);
        let nothing = Memory::default();
        let before = if was_unwritten { &nothing } else { before };
        if let Err(error) = self.folder.save(&chain.name, before, memory) {
            tracing::warn!(chain = %chain.name, %error, "the memory cannot be written down; it goes on without");
            unwritten.push((chain.name.clone(), memory.clone()));
        }
        memory.clone()
    }

    fn unwritten(&self) -> std::sync::MutexGuard<'_, Vec<(ChainName, Memory)>> {
        self.unwritten.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn delivered(sink: &str, sent: Result<(), String>) -> bool {
    match sent {
        Ok(()) => {
            tracing::info!(sink, "the sink took the alert");
            true
        }
        Err(why) => {
            tracing::warn!(sink, why, "the sink did not take the alert");
            false
        }
    }
}

/// Once only, so that the server can tell a repetition.
fn nonce() -> String {
    let bytes: [u8; 16] = rand::rng().random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
