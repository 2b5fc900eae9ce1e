//! Seals what the database and the receipts of its chains hold: AES-256-GCM-SIV, bound to the chain and to what it
//! belongs to, under a ring of keys of which the first seals and all open (SPEC §12, §13).

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use evergrant_core::ChainName;
use evergrant_core::authfile::{self, Reading};
use evergrant_core::chain::{Generation, Lineage};
use evergrant_core::grant::Grant;
use evergrant_core::provider::Profile;
use evergrant_core::secret::Fingerprint;
use rand::{Rng, RngExt};
use zeroize::{Zeroize, Zeroizing};

/// The length of a key, in bytes.
pub const KEY_LEN: usize = 32;
const ID_LEN: usize = 4;
const NONCE_LEN: usize = 12;
const VERSION: u8 = 1;
const HEAD_LEN: usize = 1 + ID_LEN + NONCE_LEN;

/// Which key: the first 4 bytes of the SHA-256 of a text that only the key's owner can write, as 8 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SealKeyId([u8; ID_LEN]);

impl fmt::Display for SealKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SealKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why something does not open, or a key ring is none. It quotes no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// There is no key.
    #[error("there is no seal key in it: make one with `evergrant seal new-key`")]
    NoKey,
    /// A line that is no key.
    #[error("line {0} is no seal key: a key is 32 bytes in base64, as `evergrant seal new-key` prints it")]
    NotAKey(usize),
    /// The same key twice.
    #[error("line {0} repeats a seal key")]
    Twice(usize),
    /// Not sealed by Evergrant.
    #[error("it is not sealed")]
    NotSealed,
    /// Sealed under a key that is not in the ring.
    #[error("it is sealed under key {0}, which is not in the key ring: add that key behind the first")]
    UnknownKey(SealKeyId),
    /// The seal does not hold: it was changed, or belongs to another chain or another generation.
    #[error("its seal does not hold: it was changed, or belongs to another chain or generation")]
    Broken,
    /// Opened, and no grant.
    #[error("what was sealed is no grant")]
    NoGrant,
}

struct Key {
    id: SealKeyId,
    key: LessSafeKey,
}

/// The keys, the first of which seals.
#[derive(Clone)]
pub struct KeyRing(Arc<Vec<Key>>);

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| key.id)).finish()
    }
}

/// A pair as it lies in the database.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub Vec<u8>);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes under {:?})", self.0.len(), self.key_id())
    }
}

impl Sealed {
    /// The key that it is sealed under.
    pub fn key_id(&self) -> Option<SealKeyId> {
        split(&self.0).ok().map(|(id, ..)| id)
    }
}

impl KeyRing {
    /// Reads a ring: a key a line, in base64; empty lines and lines that begin with `#` are passed over.
    pub fn parse(text: &str) -> Result<Self, SealError> {
        let mut keys: Vec<Key> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let raw = Zeroizing::new(BASE64.decode(line).map_err(|_| SealError::NotAKey(index + 1))?);
            let unbound =
                UnboundKey::new(&AES_256_GCM_SIV, &raw).map_err(|_| SealError::NotAKey(index + 1))?;
            let id = id_of(&raw);
            if keys.iter().any(|key| key.id == id) {
                return Err(SealError::Twice(index + 1));
            }
            keys.push(Key { id, key: LessSafeKey::new(unbound) });
        }
        if keys.is_empty() { Err(SealError::NoKey) } else { Ok(Self(Arc::new(keys))) }
    }

    /// A new key, as a line of a ring.
    pub fn new_key(rng: &mut impl Rng) -> Zeroizing<String> {
        let mut raw = [0_u8; KEY_LEN];
        rng.fill_bytes(&mut raw);
        let line = Zeroizing::new(BASE64.encode(raw));
        raw.zeroize();
        line
    }

    /// The key that seals.
    pub fn current(&self) -> SealKeyId {
        self.0.first().map_or(SealKeyId([0; ID_LEN]), |key| key.id)
    }

    /// All keys, the one that seals first.
    pub fn ids(&self) -> impl Iterator<Item = SealKeyId> {
        self.0.iter().map(|key| key.id)
    }

    /// Seals a pair for the row of this chain, lineage and generation.
    pub fn seal_pair(
        &self,
        chain: &ChainName,
        at: (Lineage, Generation),
        grant: &Grant,
        rng: &mut impl Rng,
    ) -> Sealed {
        let text = Zeroizing::new(authfile::write(None, grant));
        Sealed(Sealer { ring: self, chain }.seal(&pair_label(at), &text, rng))
    }

    /// Opens the pair of a row. A row that was swapped with another, or pasted from an older one, does not open.
    pub fn open_pair(
        &self,
        chain: &ChainName,
        at: (Lineage, Generation),
        sealed: &Sealed,
        profile: &Profile,
    ) -> Result<Grant, SealError> {
        let text = Sealer { ring: self, chain }.open(&pair_label(at), &sealed.0)?;
        match authfile::read(&text, profile) {
            Reading::Grant(grant) => Ok(grant),
            Reading::Wiped | Reading::Malformed(_) => Err(SealError::NoGrant),
        }
    }

    /// The same pair under the key that seals now; nothing if it is already.
    pub fn reseal_pair(
        &self,
        chain: &ChainName,
        at: (Lineage, Generation),
        sealed: &Sealed,
        rng: &mut impl Rng,
    ) -> Result<Option<Sealed>, SealError> {
        if sealed.key_id() == Some(self.current()) {
            return Ok(None);
        }
        let sealer = Sealer { ring: self, chain };
        let text = sealer.open(&pair_label(at), &sealed.0)?;
        Ok(Some(Sealed(sealer.seal(&pair_label(at), &text, rng))))
    }
}

/// Seals what belongs to one chain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sealer<'a> {
    pub(crate) ring: &'a KeyRing,
    pub(crate) chain: &'a ChainName,
}

impl Sealer<'_> {
    /// Seals `text` as what `label` says.
    pub(crate) fn seal(self, label: &str, text: &[u8], rng: &mut impl Rng) -> Vec<u8> {
        let key = self.ring.0.first().expect("a ring has a key");
        // A nonce that came twice would reveal no more than that two texts are the same (RFC 8452).
        let nonce: [u8; NONCE_LEN] = rng.random();
        let mut sealed = Vec::with_capacity(HEAD_LEN + text.len() + AES_256_GCM_SIV.tag_len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&key.id.0);
        sealed.extend_from_slice(&nonce);
        let mut body = text.to_vec();
        key.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), self.bound_to(label), &mut body)
            .expect("a text that is far below the limit of the cipher seals");
        sealed.append(&mut body);
        sealed
    }

    /// Opens what was sealed as that.
    pub(crate) fn open(self, label: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (id, nonce, body) = split(sealed)?;
        let key = self.ring.0.iter().find(|key| key.id == id).ok_or(SealError::UnknownKey(id))?;
        let mut body = Zeroizing::new(body.to_vec());
        let opened = key
            .key
            .open_in_place(Nonce::assume_unique_for_key(nonce), self.bound_to(label), &mut body)
            .map_err(|_| SealError::Broken)?;
        let len = opened.len();
        body.truncate(len);
        Ok(body)
    }

    fn bound_to(self, label: &str) -> Aad<String> {
        // No chain name holds a blank.
        Aad::from(format!("evergrant {VERSION} {} {label}", self.chain))
    }
}

fn pair_label((lineage, generation): (Lineage, Generation)) -> String {
    format!("pair {lineage} {generation}")
}

fn id_of(key: &[u8]) -> SealKeyId {
    let mut text = Zeroizing::new(b"evergrant seal key ".to_vec());
    text.extend_from_slice(key);
    let mut id = [0; ID_LEN];
    // A fingerprint is hex.
    let hex = Fingerprint::of(&text).to_string();
    for (byte, digits) in id.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte =
            std::str::from_utf8(digits).ok().and_then(|two| u8::from_str_radix(two, 16).ok()).unwrap_or(0);
    }
    SealKeyId(id)
}

fn split(sealed: &[u8]) -> Result<(SealKeyId, [u8; NONCE_LEN], &[u8]), SealError> {
    let (head, body) = sealed.split_at_checked(HEAD_LEN).ok_or(SealError::NotSealed)?;
    if head[0] != VERSION {
        return Err(SealError::NotSealed);
    }
    let id = head[1..=ID_LEN].try_into().map_err(|_| SealError::NotSealed)?;
    let nonce = head[1 + ID_LEN..].try_into().map_err(|_| SealError::NotSealed)?;
    Ok((SealKeyId(id), nonce, body))
}

#[cfg(test)]
mod tests {
    use evergrant_core::secret::{AccessToken, RefreshToken};
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    const ONE: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const TWO: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";

    fn rng() -> SmallRng {
        SmallRng::seed_from_u64(1)
    }

    fn grant() -> Grant {
        Grant {
            access: AccessToken::parse("canary-access").unwrap(),
            refresh: Some(RefreshToken::parse("canary-refresh").unwrap()),
            expires_at: jiff::Timestamp::from_second(1_900_000_000).ok(),
            grant_expires_at: None,
            scopes: vec!["user:inference".into()],
        }
    }

    fn chain(name: &str) -> ChainName {
        name.parse().unwrap()
    }

    const AT: (Lineage, Generation) = (Lineage(2), Generation(7));

    #[test]
    fn a_pair_opens_where_it_belongs_and_nowhere_else() {
        let profile = Profile::claude();
        let (one, other) = (KeyRing::parse(ONE).unwrap(), KeyRing::parse(TWO).unwrap());
        let sealed = one.seal_pair(&chain("claude"), AT, &grant(), &mut rng());
        assert_eq!(one.open_pair(&chain("claude"), AT, &sealed, &profile), Ok(grant()));
        assert_eq!(sealed.key_id(), Some(one.current()));
        let bytes = String::from_utf8_lossy(&sealed.0).into_owned();
        assert!(!bytes.contains("canary") && !format!("{sealed:?} {one:?}").contains("canary"));
        // Of another chain, lineage or generation: a row that was swapped, or pasted from an older one.
        for (name, at) in [
            ("claude-2", AT),
            ("claude", (Lineage(1), Generation(7))),
            ("claude", (Lineage(2), Generation(8))),
            ("claude", (Lineage(27), Generation(7))),
        ] {
            let opened = one.open_pair(&chain(name), at, &sealed, &profile);
            assert_eq!(opened, Err(SealError::Broken), "{name} {at:?}");
        }
        let unknown = other.open_pair(&chain("claude"), AT, &sealed, &profile);
        assert_eq!(unknown, Err(SealError::UnknownKey(one.current())));
        for index in 0..sealed.0.len() {
            let mut changed = sealed.clone();
            changed.0[index] ^= 1;
            assert!(one.open_pair(&chain("claude"), AT, &changed, &profile).is_err(), "byte {index}");
            let cut = Sealed(sealed.0[..index].to_vec());
            assert!(one.open_pair(&chain("claude"), AT, &cut, &profile).is_err(), "cut at {index}");
        }
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let profile = Profile::claude();
        let old = KeyRing::parse(ONE).unwrap();
        let ring = KeyRing::parse(&format!("# this year's\n{TWO}\n\n  {ONE}\n")).unwrap();
        let sealed = old.seal_pair(&chain("claude"), AT, &grant(), &mut rng());
        assert_eq!(ring.open_pair(&chain("claude"), AT, &sealed, &profile), Ok(grant()));
        let anew = ring.reseal_pair(&chain("claude"), AT, &sealed, &mut rng()).unwrap().unwrap();
        assert_eq!(anew.key_id(), Some(ring.current()));
        assert_ne!(anew.key_id(), sealed.key_id());
        assert_eq!(ring.reseal_pair(&chain("claude"), AT, &anew, &mut rng()), Ok(None));
        assert_eq!(
            KeyRing::parse(TWO).unwrap().open_pair(&chain("claude"), AT, &anew, &profile),
            Ok(grant())
        );
    }

    #[test]
    fn a_ring_is_read_with_the_line_of_its_fault() {
        assert_eq!(KeyRing::parse("# nothing\n").unwrap_err(), SealError::NoKey);
        assert_eq!(KeyRing::parse(&format!("{ONE}\nAAAA")).unwrap_err(), SealError::NotAKey(2));
        assert_eq!(KeyRing::parse(&format!("{ONE}\n\n{ONE}")).unwrap_err(), SealError::Twice(3));
        let made = KeyRing::new_key(&mut rng());
        assert!(KeyRing::parse(&made).is_ok());
    }
}
