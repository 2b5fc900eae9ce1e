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
pub(super) struct Budget(Arc<AtomicUsize>);

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    fn take(&self, bytes: usize) -> bool {
        self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A request's body as it came, framing and all, for as long as it may have to be sent again.
#[derive(Debug)]
pub(super) struct Kept {
    budget: Budget,
    /// `None`: not kept any more.
    bytes: Option<Vec<u8>>,
}

impl Kept {
    pub(super) fn new(budget: &Budget, room: Vec<u8>) -> Self {
        Self { budget: budget.clone(), bytes: Some(room) }
    }

    /// Keeps nothing.
    pub(super) fn none() -> Self {
        Self { budget: Budget::new(0), bytes: None }
    }

    /// Keeps more, or nothing at all once the budget is used up.
    pub(super) fn push(&mut self, more: &[u8]) {
        if let Some(bytes) = &mut self.bytes {
            if self.budget.take(more.len()) {
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
        let budget = Budget::new(10);
        let mut one = Kept::new(&budget, Vec::new());
        let mut two = Kept::new(&budget, Vec::new());
        one.push(b"123456");
        two.push(b"1234");
        assert_eq!((one.bytes(), two.bytes()), (Some(&b"123456"[..]), Some(&b"1234"[..])));
        two.push(b"5");
        assert_eq!(two.bytes(), None, "beyond the budget nothing is kept of it");
        one.push(b"7890");
        assert_eq!(one.bytes(), Some(&b"1234567890"[..]), "what it gave back is there for others");
        drop(one);
        let mut three = Kept::new(&budget, Vec::new());
        three.push(b"1234567890");
        assert!(three.bytes().is_some());
    }
}
