//! A value that is replaced seldom and read all the time: a reader that keeps a copy looks at one number.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// The value, with the number of its replacements.
#[derive(Debug, Default)]
pub struct Published<T> {
    version: AtomicU64,
    value: RwLock<Arc<T>>,
}

impl<T> Published<T> {
    /// Publishes the first value.
    pub fn new(value: T) -> Self {
        Self { version: AtomicU64::new(0), value: RwLock::new(Arc::new(value)) }
    }

    /// Grows with every replacement.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The value of now.
    pub fn current(&self) -> Arc<T> {
        self.value.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the value, if `change` gives another one. Says whether it did.
    pub fn replace(&self, change: impl FnOnce(&T) -> Option<T>) -> bool {
        let mut value = self.value.write().unwrap_or_else(PoisonError::into_inner);
        let Some(next) = change(&value) else {
            return false;
        };
        *value = Arc::new(next);
        self.version.fetch_add(1, Ordering::Release);
        true
    }
}
