//! The key itself, its hash, which is all that is kept, and the id that may be shown (SPEC §13).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// What every caller key begins with.
pub const KEY_PREFIX: &str = "evg_";
/// The length of every caller key, in bytes: the prefix and 32 bytes in base64url.
pub const KEY_LEN: usize = KEY_PREFIX.len() + 43;

/// A caller key. It is shown once, when it is made, and never kept.
#[derive(Clone, PartialEq, Eq)]
pub struct CallerKey(Zeroizing<String>);

impl CallerKey {
    /// A new one of 256 random bits.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(bytes.as_mut());
        let mut key = Zeroizing::new(String::with_capacity(KEY_LEN));
        key.push_str(KEY_PREFIX);
        URL_SAFE_NO_PAD.encode_string(bytes.as_ref(), &mut key);
        Self(key)
    }

    /// The secret itself. The only door: every use is found by searching for it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(self.0.as_bytes())
    }
}

impl fmt::Debug for CallerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerKey(…)")
    }
}

/// The SHA-256 of a caller key. A key has 256 random bits, so that no slow hash is needed.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// Of a presented key.
    pub fn of(presented: &[u8]) -> Self {
        Self(Sha256::digest(presented).into())
    }

    /// Of a presented key that has the form of ours; others, such as a provider's token that was sent by mistake,
    /// are not even hashed.
    pub fn of_presented(presented: &[u8]) -> Option<Self> {
        let ours = presented.len() == KEY_LEN && presented.starts_with(KEY_PREFIX.as_bytes());
        ours.then(|| Self::of(presented))
    }

    /// What the key is called by.
    pub fn id(&self) -> KeyId {
        let mut head = [0; 6];
        head.copy_from_slice(&self.0[..6]);
        KeyId(head)
    }
}

/// In a time that does not depend on where they differ.
impl PartialEq for KeyHash {
    fn eq(&self, other: &Self) -> bool {
        let difference =
            self.0.iter().zip(&other.0).fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
        difference == 0
    }
}

impl Eq for KeyHash {}

impl std::hash::Hash for KeyHash {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        // As even as all of it, and cheaper to mix.
        state.write(&self.0[..8]);
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHash({}…)", self.id())
    }
}

impl From<KeyHash> for String {
    fn from(hash: KeyHash) -> Self {
        hash.to_string()
    }
}

/// A string that is not 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the hash of a key has 64 hexadecimal digits")]
pub struct NotAKeyHash;

impl TryFrom<String> for KeyHash {
    type Error = NotAKeyHash;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        hex(&text).map(Self).ok_or(NotAKeyHash)
    }
}

/// What a key is called by: `key_` and the first 12 hex digits of its hash. It may be shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId([u8; 6]);

impl KeyId {
    /// As text, without the machinery of formatting: every request logs one.
    pub fn text(self) -> KeyIdText {
        let mut text = *b"key_000000000000";
        for (digits, byte) in text[4..].chunks_exact_mut(2).zip(self.0) {
            let digit = |value: u8| b"0123456789abcdef"[usize::from(value)];
            digits.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
        }
        KeyIdText(text)
    }
}

/// A [`KeyId`] as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyIdText([u8; 16]);

impl KeyIdText {
    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("it was put together of ASCII")
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.to_string()
    }
}

/// A string that is no id of a key. It is not quoted: somebody may have given the key itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the id of a key is key_ and 12 hexadecimal digits, as `evergrant keys list` shows it")]
pub struct NotAKeyId;

impl FromStr for KeyId {
    type Err = NotAKeyId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("key_").and_then(hex).map(Self).ok_or(NotAKeyId)
    }
}

impl TryFrom<String> for KeyId {
    type Error = NotAKeyId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Lower-case hexadecimal digits, exactly as many as fit.
fn hex<const LEN: usize>(text: &str) -> Option<[u8; LEN]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        0..=b'/' | b':'..=b'`' | b'g'..=u8::MAX => None,
    };
    let text = text.as_bytes();
    if text.len() != 2 * LEN {
        return None;
    }
    let mut bytes = [0; LEN];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}
