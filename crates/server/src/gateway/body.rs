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
pub(super) struct Kept {
    budget: Budget,
    /// `None`: not kept any more.
    bytes: Option<Vec<u8>>,
}

impl Kept {
    /// A copy of a request that is so long at least, in the room that `room` gives for it. What is too long is not begun
    /// with.
    pub(super) fn new(budget: &Budget, length: u64, room: impl FnOnce(usize) -> Vec<u8>) -> Self {
        let length = usize::try_from(length).ok().filter(|length| *length <= budget.each);
        Self { budget: budget.clone(), bytes: length.map(room) }
    }

    /// Keeps nothing.
    pub(super) fn none() -> Self {
        Self { budget: Budget::new(0), bytes: None }
    }

    /// Keeps more, or nothing at all once the budget is used up.
    pub(super) fn push(&mut self, more: &[u8]) {
        if let Some(bytes) = &mut self.bytes {
            bytes.extend_from_slice(more);
            self.take_in(more.len());
        }
    }

    /// Room behind what is kept, if there is some, for what comes next: [`Kept::take_in`] says that it came.
    pub(super) fn room(&mut self, most: usize) -> Option<(usize, Limit<&mut Vec<u8>>)> {
        let bytes = self.bytes.as_mut()?;
        let most = most.min(bytes.capacity() - bytes.len());
        (most > 0).then(|| (bytes.len(), bytes.limit(most)))
    }

    /// What is kept from a place on; nothing where nothing is.
    pub(super) fn since(&self, from: usize) -> &[u8] {
        self.bytes.as_ref().and_then(|bytes| bytes.get(from..)).unwrap_or_default()
    }

    /// So much came behind what was kept: it is kept too, or nothing at all once the budget is used up.
    pub(super) fn take_in(&mut self, len: usize) {
        let whole = self.bytes.as_ref().map_or(0, Vec::len);
        if whole <= self.budget.each && self.budget.take(len) {
            return;
        }
        self.bytes = None;
        self.budget.give_back(whole - len);
    }

    /// What is kept.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        self.bytes.as_deref()
    }

    /// Keeps nothing any more; gives the room back.
    pub(super) fn let_go(&mut self) -> Option<Vec<u8>> {
        let bytes = self.bytes.take()?;
        self.budget.give_back(bytes.len());
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
        let kept = || Kept::new(&budget, 0, Vec::with_capacity);
        let mut some: Vec<_> = (0..4).map(|_| kept()).collect();
        for copy in &mut some {
            copy.push(b"1234");
            assert_eq!(copy.bytes(), Some(&b"1234"[..]));
        }
        let mut late = kept();
        late.push(b"1");
        assert_eq!(late.bytes(), None, "beyond the budget nothing is kept");
        some.pop();
        let mut next = kept();
        next.push(b"1234");
        assert_eq!(next.bytes(), Some(&b"1234"[..]), "what was given back is there for others");
        next.push(b"5");
        assert_eq!(next.bytes(), None, "one request takes a quarter at most");
        let long = |length| Kept::new(&budget, length, |_| panic!("room for what is not kept"));
        assert!(long(5).bytes().is_none(), "which is known before it comes");
        assert!(long(u64::MAX).bytes().is_none());
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
        let mut kept = Kept::new(&budget, 4, Vec::with_capacity);
        kept.push(b"1");
        read(&mut kept, 2, b"23");
        assert_eq!(kept.bytes(), Some(&b"123"[..]));
        assert!(kept.room(0).is_none(), "nothing is left of the body");
        read(&mut kept, 9, b"4");
        assert!(kept.room(9).is_none(), "it is full, and does not grow");
        let mut others: Vec<_> = (0..3).map(|_| Kept::new(&budget, 4, Vec::with_capacity)).collect();
        for other in &mut others {
            other.push(b"1234");
        }
        let mut late = Kept::new(&budget, 4, Vec::with_capacity);
        read(&mut late, 4, b"12");
        assert_eq!((late.bytes(), late.since(0)), (None, &b""[..]), "the budget was used up");
        drop(kept);
        drop(others);
        let mut all = Kept::new(&budget, 4, Vec::with_capacity);
        read(&mut all, 4, b"1234");
        assert!(all.bytes().is_some(), "all was given back");
    }
}
