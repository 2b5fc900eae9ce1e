//! What an answer says of the source that got it, and what follows: the request once more, with the same token, a
//! newer one or the fallback key, or the answer as it came (SPEC §7).

use std::future::poll_fn;
use std::task::Poll;

use evergrant_core::Reason;
use evergrant_core::gateway::{Meaning, Next, Refused, Source, next};

use super::admission::{Serving, With, spend_fallback};
use super::entry::Entry;
use super::exchange::Client;
use super::fault::Fault;
use super::forward::{Flight, Progress};
use super::own_error::no_source;
use super::plane::Limits;
use super::thread::Thread;
use super::{clock, told};

/// What was tried for a request already.
#[derive(Default)]
pub(super) struct Tried {
    /// Only a fresh connection is good enough.
    pub(super) fresh: bool,
    /// The client was told to send its body.
    pub(super) continued: bool,
    pub(super) asked: bool,
    pub(super) replayed: bool,
}

impl Flight<'_> {
    /// What an answer says of the source: `Some`, if the request is sent once more, with that.
    pub(super) async fn judge(
        &mut self,
        thread: &Thread,
        client: &mut Client,
        serving: &Serving,
        tried: &mut Tried,
        limits: &Limits,
        entry: &mut Entry,
    ) -> Result<Option<With>, Fault> {
        let With::Chain(live) = &serving.with else { return Ok(None) };
        let chain = &serving.chain;
        if chain.source != Source::Oauth {
            return Ok(None);
        }
        let status = self.skip_interim(thread, client, limits).await?;
        if !chain.rules.tells(status) {
            return Ok(None);
        }
        self.read_told(thread, client, limits).await?;
        let meaning = chain.rules.meaning(status, &told::text(&self.got, self.to_head));
        if meaning == Meaning::GrantRefused
            && let Some(renewer) = &chain.renewer
        {
            entry.reason = Some(Reason::GrantRefused);
            renewer.grant_refused(live.position);
        }
        let used = live.position;
        loop {
            let refused = Refused { used, asked: tried.asked, replayed: tried.replayed };
            let now = clock::wall();
            let seen = thread.seen();
            // Since a reload the chain may stand for another provider, whose token is not for this one.
            let current = seen.plane.chain(&chain.name);
            let current = current.filter(|current| current.upstream.url == chain.upstream.url);
            let live = current.and_then(|current| seen.live(&current, now));
            let held = self.up.kept.bytes().is_some();
            let position = live.as_ref().map(|live| live.position);
            let on = chain.fallback.as_ref().map(|fallback| fallback.key.on).unwrap_or_default();
            match next(meaning, refused, position, held, serving.fallback(now), on) {
                Next::PassOn => return Ok(None),
                Next::PassOnAndTell => {
                    if let Some(renewer) = &chain.renewer {
                        thread.shared.measures.forced(chain.labels("").0);
                        drop(renewer.refused(used));
                    }
                    return Ok(None);
                }
                Next::Ask => {
                    tried.asked = true;
                    let Some(renewer) = &chain.renewer else { continue };
                    thread.shared.measures.forced(chain.labels("").0);
                    if client.unless_gone(thread, renewer.refused(used)).await.is_none() {
                        return Err(Fault::ClientGone);
                    }
                }
                Next::Replay => {
                    tried.replayed = true;
                    entry.replayed = true;
                    thread.shared.measures.replayed(chain.labels("").0);
                    return Ok(live.map(With::Chain));
                }
                Next::FallBack => {
                    if spend_fallback(thread, chain, &serving.caller, now).is_ok() {
                        return Ok(Some(With::Fallback));
                    }
                }
                Next::UsedUp => return Err(Fault::UsedUp(no_source(chain, Reason::FallbackUsedUp))),
            }
        }
    }

    /// Reads the body of a telling answer, as far as it is looked at.
    async fn read_told(
        &mut self,
        thread: &Thread,
        client: &mut Client,
        limits: &Limits,
    ) -> Result<(), Fault> {
        let mut progress = Progress::new(clock::now());
        let to_head = self.to_head;
        poll_fn(|cx| {
            loop {
                if told::is_enough(&self.got, to_head) {
                    return Poll::Ready(Ok(()));
                }
                // Behind a malformed piece nothing is sent on, here or to another connection: it was dropped.
                if let Poll::Ready(Err(fault)) = self.poll_up(cx, thread, client) {
                    return Poll::Ready(Err(fault));
                }
                match self.poll_got(cx, thread) {
                    Poll::Ready(Ok(_)) => {}
                    // It says what it says as far as it came; passing it on finds the end again.
                    Poll::Ready(Err(_)) => return Poll::Ready(Ok(())),
                    // One that pauses says what it says so far, too.
                    Poll::Pending => {
                        let waited = progress.check(client, self.got.len(), limits.told, Fault::Timeout);
                        return waited.map(|_: Result<(), Fault>| Ok(()));
                    }
                }
            }
        })
        .await
    }

    /// Leaves this answer for another one. Its connection is kept if nothing more comes on it.
    pub(super) fn leave(self, thread: &Thread, serving: &Serving) {
        let whole = told::is_whole(&self.got, self.to_head);
        let keep = self.head(|head| head.keep_alive).unwrap_or(false);
        if whole && keep && self.up.sent {
            thread.pool.put(&serving.chain.upstream, self.stream);
        }
        thread.give_back(self.got);
    }
}
