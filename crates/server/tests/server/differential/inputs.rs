//! What a client sends, and what may become of it.

use super::compare::Compared;
use super::upstream::Seen;

/// The field that tells Evergrant's upstream of which input a request is.
pub(super) const CASE_FIELD: &str = "x-case";
/// In an input's text: the caller key's field, and the input's own.
pub(super) const KEY: char = '\u{100}';

/// What is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// All three forward all of so many requests alike.
    Passes(usize),
    /// Evergrant refuses it, or agrees with all who forward it.
    Holds,
    /// nginx and `HAProxy` differ from one another, which is why Evergrant agrees with one of them or refuses.
    PeersDiffer(&'static str),
}

/// One connection of a client.
pub(super) struct Input {
    pub(super) name: String,
    /// A character is a byte, but for [`KEY`].
    pub(super) text: String,
    /// Bytes that are sent at once.
    pub(super) cut: usize,
    pub(super) expected: Expected,
}

impl Input {
    /// The bytes, with these lines where the key is to stand.
    pub(super) fn bytes(&self, key: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.text.len() + key.len());
        for character in self.text.chars() {
            match u8::try_from(character) {
                Ok(byte) => bytes.push(byte),
                Err(_) => bytes.extend_from_slice(key.as_bytes()),
            }
        }
        bytes
    }

    /// Whether that is what may come of it.
    pub(super) fn judge(&self, compared: Compared, ours: &[Seen]) -> Result<(), String> {
        match (compared, self.expected) {
            (Compared::Differs(why), _) => Err(format!("Evergrant splits it otherwise: {why}")),
            (Compared::PeersDiffer, Expected::PeersDiffer(_)) => Ok(()),
            (Compared::PeersDiffer, Expected::Passes(_) | Expected::Holds) => {
                Err("nginx and HAProxy differ, which nobody has named".to_owned())
            }
            (Compared::Same, Expected::PeersDiffer(why)) => Err(format!("no difference any more: {why}")),
            (Compared::Same, Expected::Passes(count))
                if ours.iter().filter(|seen| seen.whole).count() != count =>
            {
                Err(format!("{count} requests should pass"))
            }
            (Compared::Same, Expected::Passes(_) | Expected::Holds) => Ok(()),
        }
    }
}
