//! What is recorded: each way in which the vault changes files, run by the real keeper, with an outside edit before
//! any of its operations where that matters.

use std::path::Path;

use evergrant_core::authfile::{self, Reading};
use evergrant_core::chain::Record;
use evergrant_core::keeper::Look;
use evergrant_standin::{Engine, Fault, FaultTarget};
use jiff::Timestamp;

use super::Lie;
use super::disk::{Edit, Facts, Moment, Op};
use super::image::Image;
use super::room::{FILE, Furniture, LIFE_SECS, Room, epoch, settings};

/// What happens in a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// The first look at a file.
    Adoption,
    /// A pair that is due.
    Rotation,
    /// The provider refuses the pair.
    Refusal,
    /// The provider did not spend it.
    Unspent,
    /// The answer says nothing definite, and spent it.
    Doubt,
    /// An older file was put back.
    RollForward,
    /// A grant is handed in, over another one or into a missing file.
    Import { over: bool },
}

/// An edit that falls in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    Login,
    Note,
    Remove,
}

/// A scenario, ready to be recorded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    course: Course,
    furniture: Furniture,
    meanwhile: Meanwhile,
}

/// What a run left to derive states from.
pub(super) struct Recorded {
    pub(super) base: Image,
    pub(super) ops: Vec<Op>,
    pub(super) moments: Vec<Moment>,
    pub(super) now: Timestamp,
    /// What the state remembered before.
    pub(super) remembered: Option<Record>,
    pub(super) furniture: Furniture,
    /// How many operations were called in all.
    pub(super) verbs: usize,
    /// The keeper was given an answer, lived on, and never kept it.
    pub(super) dropped: bool,
}

impl Recorded {
    /// What a room has recorded since its disk was last settled, after so many exchanges.
    fn of(room: &Room, remembered: Option<Record>, verbs: usize, exchanges: u64) -> Self {
        let inner = room.disk.lock();
        let dropped = inner.engine.counters().exchanges > exchanges && !inner.facts.kept;
        let (base, ops, moments) = (inner.base.clone(), inner.ops.clone(), inner.moments.clone());
        drop(inner);
        Self { base, ops, moments, now: room.now(), remembered, furniture: room.furniture, verbs, dropped }
    }

    /// What the first look after a crash reports.
    #[cfg(test)]
    pub(super) fn first_look(&self, image: &Image, moment: &Moment) -> evergrant_core::keeper::Report {
        Room::new(image.clone(), moment.engine.clone(), self.now, None, self.furniture).look(Look::Due)
    }

    /// The recovery from one crash, to be cut short by another one.
    pub(super) fn of_recovery(&self, image: &Image, moment: &Moment) -> Self {
        let mut engine = moment.engine.clone();
        engine.clear_faults();
        let room = Room::new(image.clone(), engine, self.now, None, self.furniture);
        // An answer for the login before this one is nobody's any more.
        let kept = moment.facts.kept && moment.facts.logins == 0;
        room.disk.lock().facts = Facts { kept, ..moment.facts.clone() };
        room.disk.settle();
        let exchanges = room.counters().exchanges;
        room.look_until_rest();
        Self::of(&room, self.remembered.clone(), room.disk.verbs(), exchanges)
    }
}

const PLAIN: Furniture = Furniture { mounted: false, no_exchange: false, client_locks: false };

/// Every scenario.
pub(super) fn all() -> Vec<Scenario> {
    let plain = |name, course| Scenario { name, course, furniture: PLAIN, meanwhile: Meanwhile::Nothing };
    let rotation = |name, furniture| Scenario { furniture, ..plain(name, Course::Rotation) };
    let mounted = |scenario| Scenario { furniture: Furniture { mounted: true, ..PLAIN }, ..scenario };
    let edited = |name, meanwhile| Scenario { meanwhile, ..plain(name, Course::Rotation) };
    vec![
        plain("adoption", Course::Adoption),
        plain("rotation", Course::Rotation),
        rotation("rotation under the client's locks", Furniture { client_locks: true, ..PLAIN }),
        mounted(plain("rotation of a mounted file", Course::Rotation)),
        rotation("rotation without exchange", Furniture { no_exchange: true, ..PLAIN }),
        plain("refusal", Course::Refusal),
        plain("unspent", Course::Unspent),
        plain("doubt", Course::Doubt),
        plain("older file put back", Course::RollForward),
        plain("import over a grant", Course::Import { over: true }),
        plain("import into a missing file", Course::Import { over: false }),
        edited("rotation, a login in between", Meanwhile::Login),
        edited("rotation, a member added in between", Meanwhile::Note),
        edited("rotation, the file removed in between", Meanwhile::Remove),
        mounted(plain("older file put back over a mounted one", Course::RollForward)),
    ]
}

impl Scenario {
    /// An edit falls before any of its operations; otherwise it has one run only.
    pub(super) fn has_edits(&self) -> bool {
        self.meanwhile != Meanwhile::Nothing
    }

    /// Runs it once, with the edit before operation `before`.
    pub(super) fn record(&self, before: usize, lie: Option<Lie>) -> Recorded {
        let image = Image::with_folders(&["/", "/grant", "/state"]);
        let room = Room::new(image, Engine::new(settings()), epoch(), None, self.furniture);
        let (family, bytes) = room.log_in();
        let path = Path::new(FILE);
        room.disk.lock().facts.families = vec![family];
        let file_first = self.course != Course::Import { over: false };
        if file_first {
            room.disk.edit(path, Edit::Note(bytes.clone()));
        }
        room.disk.lock().facts.noted = false;
        if self.course != Course::Adoption {
            room.look(Look::Due);
        }
        if self.course == Course::RollForward {
            room.set_now(epoch() + std::time::Duration::from_secs(LIFE_SECS - 600));
            room.look(Look::Due);
            room.disk.edit(path, Edit::Note(noted(&bytes)));
        }
        self.push_fault(&room);
        let remembered = room.record();
        let (other_family, other) = room.log_in();
        let edit = match self.meanwhile {
            Meanwhile::Nothing => None,
            Meanwhile::Login => Some(Edit::Login { bytes: other.clone(), family: other_family }),
            Meanwhile::Note => Some(Edit::Note(noted(&bytes))),
            Meanwhile::Remove => Some(Edit::Remove),
        };
        if let Course::Import { over } = self.course {
            let mut inner = room.disk.lock();
            inner.facts.families = if over { vec![family, other_family] } else { vec![other_family] };
            inner.facts.may_be_absent = !over;
            inner.facts.logins = u64::from(over);
        }
        room.disk.lock().facts.kept = false;
        room.disk.settle();
        room.disk.lie(lie);
        let (begun, exchanges) = (room.disk.verbs(), room.counters().exchanges);
        if let Some(edit) = edit {
            room.disk.edit_before(before, path, edit);
        }
        match self.course {
            Course::Import { .. } => self.import(&room, &other, other_family),
            Course::Adoption => drop(room.look(Look::Due)),
            Course::Rotation | Course::Refusal | Course::Unspent | Course::Doubt => {
                room.set_now(epoch() + std::time::Duration::from_secs(LIFE_SECS - 1_800));
                room.look(Look::Due);
            }
            Course::RollForward => drop(room.look(Look::Due)),
        }
        let verbs = room.disk.verbs() - begun;
        Recorded::of(&room, remembered, verbs, exchanges)
    }

    fn push_fault(&self, room: &Room) {
        let fault = match self.course {
            Course::Refusal => Fault::named("invalid_grant_400"),
            Course::Unspent => Fault::named("overloaded_503"),
            Course::Doubt => Fault::named("spent_then_500"),
            Course::Adoption | Course::Rotation | Course::RollForward | Course::Import { .. } => None,
        };
        if let Some(fault) = fault {
            room.disk.lock().engine.push_fault(FaultTarget::Token, fault, 1);
        }
    }

    fn import(&self, room: &Room, bytes: &[u8], family: u64) {
        if let Reading::Grant(grant) = authfile::read(bytes, &crate::profile()) {
            room.import(grant);
        }
        // It has returned: from here on it holds.
        room.disk.lock().turn(|facts| {
            facts.families = vec![family];
            facts.may_be_absent = false;
        });
    }
}

/// The same file with a member that is not ours.
pub(super) fn noted(bytes: &[u8]) -> Vec<u8> {
    let mut file: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    file["note"] = "an operator's".into();
    file.to_string().into_bytes()
}

/// The member is there.
pub(super) fn has_note(bytes: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(bytes).is_ok_and(|file| file.get("note").is_some())
}
