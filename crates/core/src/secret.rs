//! Secrets as types that neither print nor serialise, and what may be shown of them (SPEC §5, §13).

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The longest token that is accepted, in bytes.
pub const MAX_TOKEN_LEN: usize = 8 * 1024;

/// Why a string is no token. It never quotes the string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotAToken {
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// It is longer than so many bytes.
    #[error("it is longer than {} KiB", .0 / 1024)]
    TooLong(usize),
    /// It holds a blank, a control character or a character outside ASCII: it could not be sent in a header.
    #[error("it holds a character that no token has (a blank, a line break or one outside ASCII)")]
    BadCharacter,
}

fn parse(raw: &str) -> Result<Zeroizing<String>, NotAToken> {
    parse_up_to(raw, MAX_TOKEN_LEN)
}

fn parse_up_to(raw: &str, most: usize) -> Result<Zeroizing<String>, NotAToken> {
    if raw.is_empty() {
        return Err(NotAToken::Empty);
    }
    if raw.len() > most {
        return Err(NotAToken::TooLong(most));
    }
    if !raw.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(NotAToken::BadCharacter);
    }
    Ok(Zeroizing::new(raw.to_owned()))
}

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name(Zeroizing<String>);

        impl $name {
            /// Takes a raw string as a secret, if it could be one.
            pub fn parse(raw: &str) -> Result<Self, NotAToken> {
                parse(raw).map(Self)
            }

            /// The secret itself. The only door: every use is found by searching for it.
            pub fn expose(&self) -> &str {
                &self.0
            }

            /// First 16 hex digits of its SHA-256: safe to show, enough to compare.
            pub fn fingerprint(&self) -> Fingerprint {
                Fingerprint::of(self.0.as_bytes())
            }

            /// `fixed` and the 4 characters behind it, or nothing of a secret that lacks that prefix.
            pub fn shown(&self, fixed: Option<&str>) -> String {
                let rest = fixed.and_then(|fixed| self.0.strip_prefix(fixed).map(|rest| (fixed, rest)));
                match rest {
                    Some((fixed, rest)) if rest.len() >= 16 => format!("{fixed}{}…", &rest[..4]),
                    Some((fixed, _)) => format!("{fixed}…"),
                    None => "…".to_owned(),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    };
}

secret! {
    /// What the API takes as `Authorization: Bearer`.
    AccessToken
}
secret! {
    /// What the token URL takes for the next pair; single-use where the provider rotates it.
    RefreshToken
}
secret! {
    /// What a confidential client proves itself with at the token URL.
    ClientSecret
}

secret! {
    /// What the API takes in place of an access token: it does not end, and costs by use.
    ApiKey
}

secret! {
    /// What a sink of alerts takes as proof of who sends: a routing key or an access token of its own.
    SinkKey
}

/// The longest identity token that is accepted, in bytes.
pub const MAX_IDENTITY_TOKEN_LEN: usize = 16 * 1024;

/// The JWT with which a workload proves who it is (RFC 7523): its platform writes it into a file and renews it there.
#[derive(Clone, PartialEq, Eq)]
pub struct IdentityToken(Zeroizing<String>);

impl IdentityToken {
    /// Takes the text of the file as an identity token, without the blanks around it.
    pub fn parse(raw: &str) -> Result<Self, NotAToken> {
        parse_up_to(raw.trim(), MAX_IDENTITY_TOKEN_LEN).map(Self)
    }

    /// The secret itself. The only door: every use is found by searching for it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// First 16 hex digits of its SHA-256: safe to show, enough to compare.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.0.as_bytes())
    }
}

impl fmt::Debug for IdentityToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentityToken(…)")
    }
}

/// First 16 hex digits of the SHA-256 of a token: identifies a pair without revealing it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 8]);

impl Fingerprint {
    /// Of any bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = Sha256::digest(bytes);
        let mut head = [0; 8];
        head.copy_from_slice(&digest[..8]);
        Self(head)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

/// A string that is not 16 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint has 16 hexadecimal digits")]
pub struct NotAFingerprint;

impl TryFrom<String> for Fingerprint {
    type Error = NotAFingerprint;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl std::str::FromStr for Fingerprint {
    type Err = NotAFingerprint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 16 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NotAFingerprint);
        }
        let number = u64::from_str_radix(text, 16).map_err(|_| NotAFingerprint)?;
        Ok(Self(number.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_prints() {
        let token = AccessToken::parse("prefix-0123456789abcdef-secret").unwrap();
        assert_eq!(format!("{token:?}"), "AccessToken(…)");
        assert_eq!(token.shown(Some("prefix-")), "prefix-0123…");
        assert_eq!(token.shown(Some("other-")), "…");
        assert_eq!(token.shown(None), "…");
        assert_eq!(AccessToken::parse("prefix-short").unwrap().shown(Some("prefix-")), "prefix-…");
    }

    #[test]
    fn what_no_header_could_carry_is_no_token() {
        for (raw, fault) in [
            ("", NotAToken::Empty),
            ("a b", NotAToken::BadCharacter),
            ("a\n", NotAToken::BadCharacter),
            ("ä", NotAToken::BadCharacter),
        ] {
            assert_eq!(RefreshToken::parse(raw), Err(fault));
        }
        assert_eq!(
            RefreshToken::parse(&"x".repeat(MAX_TOKEN_LEN + 1)),
            Err(NotAToken::TooLong(MAX_TOKEN_LEN))
        );
        assert!(RefreshToken::parse(&"x".repeat(MAX_TOKEN_LEN)).is_ok());
    }

    #[test]
    fn an_identity_token_is_trimmed_bounded_and_does_not_print() {
        let token = IdentityToken::parse("\n head.body.sign \r\n").unwrap();
        assert_eq!((token.expose(), format!("{token:?}").as_str()), ("head.body.sign", "IdentityToken(…)"));
        assert_eq!(token.fingerprint(), Fingerprint::of(b"head.body.sign"));
        assert_eq!(IdentityToken::parse(" \n"), Err(NotAToken::Empty));
        assert_eq!(IdentityToken::parse("a b"), Err(NotAToken::BadCharacter));
        let long = "x".repeat(MAX_IDENTITY_TOKEN_LEN + 1);
        let fault = IdentityToken::parse(&long).unwrap_err();
        assert_eq!(fault.to_string(), "it is longer than 16 KiB");
        assert!(IdentityToken::parse(&long[1..]).is_ok());
    }

    #[test]
    fn a_fingerprint_survives_its_text() {
        let fingerprint = Fingerprint::of(b"abc");
        assert_eq!(fingerprint.to_string(), "ba7816bf8f01cfea");
        assert_eq!("ba7816bf8f01cfea".parse(), Ok(fingerprint));
        assert_eq!("ba7816bf8f01cfe".parse::<Fingerprint>(), Err(NotAFingerprint));
        assert_eq!("+a7816bf8f01cfea".parse::<Fingerprint>(), Err(NotAFingerprint));
    }
}
