//! Where a body ends, and a copy of it for a replay within a budget of bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    /// A copy in `room` of a request whose body is so long, if that is known. What is too long is not begun with.
    pub(super) fn new(budget: &Budget, mut room: Vec<u8>, length: Option<u64>) -> Self {
        let length = length.map_or(Some(0), |length| usize::try_from(length).ok());
        let length = length.filter(|length| *length <= budget.each);
        if let Some(length) = length {
            room.reserve(length);
        }
        Self { budget: budget.clone(), bytes: length.map(|_| room) }
    }

    /// Keeps nothing.
    pub(super) fn none() -> Self {
        Self { budget: Budget::new(0), bytes: None }
    }

    /// Keeps more, or nothing at all once the budget is used up.
    pub(super) fn push(&mut self, more: &[u8]) {
        if let Some(bytes) = &mut self.bytes {
            if bytes.len() + more.len() <= self.budget.each && self.budget.take(more.len()) {
                bytes.extend_from_slice(more);
            } else {
                drop(self.let_go());
            }
        }
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
        let kept = || Kept::new(&budget, Vec::new(), None);
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
        assert!(Kept::new(&budget, Vec::new(), Some(5)).bytes().is_none(), "which is known before it comes");
        assert!(Kept::new(&budget, Vec::new(), Some(u64::MAX)).bytes().is_none());
    }
}
