//! Where a body ends, and a copy of it for a replay within a budget of bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BufMut as _;
use bytes::buf::Limit;

use super::http1::{BadChunk, Chunked, Framing, Scanned};

/// Follows a body to its end.
#[derive(Debug)]
pub(super) enum Body {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
}

impl Body {
    pub(super) fn new(framing: Framing, trailer_allowed: fn(&[u8]) -> bool) -> Self {
        match framing {
            Framing::None => Self::Length(0),
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunked::new(trailer_allowed)),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Takes what belongs to it; `data` gets the content without its framing.
    pub(super) fn take(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<Scanned, BadChunk> {
        match self {
            Self::Length(left) => {
                let used = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= used as u64;
                data(&bytes[..used]);
                Ok(Scanned { used, ended: *left == 0 })
            }
            Self::Chunked(chunked) => chunked.scan(bytes, data),
            Self::UntilClose => {
                data(bytes);
                Ok(Scanned { used: bytes.len(), ended: false })
            }
        }
    }

    /// How much of it is to come, where its head says so.
    pub(super) fn left(&self) -> u64 {
        match self {
            Self::Length(left) => *left,
            Self::Chunked(_) | Self::UntilClose => 0,
        }
    }

    /// Whether the connection's end is its end.
    pub(super) fn ends_with_connection(&self) -> bool {
        matches!(self, Self::UntilClose)
    }
}

/// The bytes that all copies together may take.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    left: Arc<AtomicUsize>,
    /// One request takes so much of it at most.
    each: usize,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(bytes)), each: bytes / 4 }
    }

    fn take(&self, bytes: usize) -> bool {
        self.left.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A request as it came, framing and all, for as long as it may have to be sent again.
#[derive(Debug)]
pub(super) struct Kept(Option<Copied>);

#[derive(Debug)]
struct Copied {
    budget: Budget,
    bytes: Vec<u8>,
}

impl Kept {
    /// Keeps what `came` of a request that is so long at least. What is too long, or more than the budget has left, is
    /// given back.
    pub(super) fn of(budget: &Budget, length: u64, mut came: Vec<u8>) -> Result<Self, Vec<u8>> {
        let length = usize::try_from(length).unwrap_or(usize::MAX).max(came.len());
        if length > budget.each || !budget.take(came.len()) {
            return Err(came);
        }
        came.reserve(length - came.len());
        Ok(Self(Some(Copied { budget: budget.clone(), bytes: came })))
    }

    /// Keeps nothing.
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// Keeps more, or nothing at all once the budget is used up.
    pub(super) fn push(&mut self, more: &[u8]) {
        if let Some(copied) = &mut self.0 {
            copied.bytes.extend_from_slice(more);
            self.take_in(more.len());
        }
    }

    /// Room behind what is kept, if there is some, for what comes next: [`Kept::take_in`] says that it came.
    pub(super) fn room(&mut self, most: usize) -> Option<(usize, Limit<&mut Vec<u8>>)> {
        let Copied { bytes, .. } = self.0.as_mut()?;
        let most = most.min(bytes.capacity() - bytes.len());
        (most > 0).then(|| (bytes.len(), bytes.limit(most)))
    }

    /// What is kept from a place on; nothing where nothing is.
    pub(super) fn since(&self, from: usize) -> &[u8] {
        self.bytes().and_then(|bytes| bytes.get(from..)).unwrap_or_default()
    }

    /// So much came behind what was kept: it is kept too, or nothing at all once the budget is used up.
    pub(super) fn take_in(&mut self, len: usize) {
        if let Some(Copied { budget, bytes }) = &self.0
            && (bytes.len() > budget.each || !budget.take(len))
        {
            budget.give_back(bytes.len() - len);
            self.0 = None;
        }
    }

    /// What is kept.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        self.0.as_ref().map(|copied| copied.bytes.as_slice())
    }

    /// Keeps nothing any more; gives the room back.
    pub(super) fn let_go(&mut self) -> Option<Vec<u8>> {
        let Copied { budget, bytes } = self.0.take()?;
        budget.give_back(bytes.len());
        Some(bytes)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.let_go();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_share_a_budget_and_give_it_back() {
        let budget = Budget::new(16);
        let kept = |came: &[u8]| Kept::of(&budget, 0, came.to_vec());
        let mut some: Vec<_> = (0..4).map(|_| kept(b"12").unwrap()).collect();
        for copy in &mut some {
            copy.push(b"34");
            assert_eq!(copy.bytes(), Some(&b"1234"[..]));
        }
        assert_eq!(kept(b"1").unwrap_err(), b"1", "beyond the budget nothing is kept");
        let mut late = kept(b"").unwrap();
        late.push(b"1");
        assert_eq!(late.bytes(), None);
        some.pop();
        let mut next = kept(b"1234").unwrap();
        assert_eq!(next.bytes(), Some(&b"1234"[..]), "what was given back is there for others");
        next.push(b"5");
        assert_eq!(next.bytes(), None, "one request takes a quarter at most");
        for (length, came) in [(5, &b"1"[..]), (u64::MAX, b"1"), (0, b"12345")] {
            let given_back = Kept::of(&budget, length, came.to_vec()).unwrap_err();
            assert_eq!(given_back, came, "which is known before it comes");
        }
    }

    #[test]
    fn what_is_read_into_a_copy_is_kept_within_the_budget() {
        let budget = Budget::new(16);
        let read = |kept: &mut Kept, most, more: &[u8]| {
            let (from, mut room) = kept.room(most).unwrap();
            room.put_slice(more);
            assert_eq!(kept.since(from), more, "it can be passed on");
            kept.take_in(more.len());
        };
        let begun = || Kept::of(&budget, 0, Vec::with_capacity(4)).unwrap();
        let mut kept = begun();
        kept.push(b"1");
        read(&mut kept, 2, b"23");
        assert_eq!(kept.bytes(), Some(&b"123"[..]));
        assert!(kept.room(0).is_none(), "nothing is left of the body");
        read(&mut kept, 9, b"4");
        assert!(kept.room(9).is_none(), "it is full, and does not grow");
        let mut others: Vec<_> = (0..3).map(|_| begun()).collect();
        for other in &mut others {
            other.push(b"1234");
        }
        let mut late = begun();
        read(&mut late, 4, b"12");
        assert_eq!((late.bytes(), late.since(0)), (None, &b""[..]), "the budget was used up");
        drop(kept);
        drop(others);
        let mut all = begun();
        read(&mut all, 4, b"1234");
        assert!(all.bytes().is_some(), "all was given back");
    }
}
