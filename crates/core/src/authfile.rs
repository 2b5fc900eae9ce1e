//! The shape of an auth file: read as a grant, and written without losing what others put there (SPEC §3).

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::grant::Grant;
use crate::provider::Profile;
use crate::push::Identity;
use crate::secret::{AccessToken, RefreshToken};

const MEMBER: &str = "claudeAiOauth";
/// The largest auth file that is read, in bytes.
pub const MAX_LEN: usize = 1024 * 1024;
/// The longest id of an account or organization that is taken over.
const MOST_ID_LEN: usize = 128;
/// Milliseconds since the epoch below this are taken for seconds: they would lie before 1976.
const LEAST_PLAUSIBLE_MILLIS: i64 = 200_000_000_000;

/// What the bytes of an auth file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// A grant.
    Grant(Grant),
    /// A login that was wiped: empty tokens, or `expiresAt: 0`.
    Wiped,
    /// Not readable as a grant.
    Malformed(Malformed),
}

/// Why an auth file is not readable as a grant. It never quotes a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// It could not even be opened or read.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// It is too large.
    #[error("it is larger than 1 MiB")]
    TooLarge,
    /// It is not JSON.
    #[error("it is not JSON (line {line}, column {column})")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// The member that holds the grant is missing or no object.
    #[error("it has no object {MEMBER:?}; log in with the provider's client, or give a file of that shape")]
    NoGrant,
    /// A member has the wrong type or value.
    #[error("{MEMBER}.{member} {fault}")]
    Member {
        /// Which one.
        member: &'static str,
        /// What is wrong with it, and what belongs there.
        fault: String,
    },
}

/// Reads the bytes of an auth file.
///
/// Prefixes that the profile does not know are let pass, since the provider may bring new ones; only a token
/// that stands in another one's place is refused.
pub fn read(bytes: &[u8], profile: &Profile) -> Reading {
    match parse(bytes, profile) {
        Ok(Some(grant)) => Reading::Grant(grant),
        Ok(None) => Reading::Wiped,
        Err(fault) => Reading::Malformed(fault),
    }
}

fn parse(bytes: &[u8], profile: &Profile) -> Result<Option<Grant>, Malformed> {
    if bytes.len() > MAX_LEN {
        return Err(Malformed::TooLarge);
    }
    let file: Value = serde_json::from_slice(bytes)
        .map_err(|error| Malformed::NotJson { line: error.line(), column: error.column() })?;
    let oauth = file.get(MEMBER).and_then(Value::as_object).ok_or(Malformed::NoGrant)?;
    let access = text(oauth, "accessToken")?.unwrap_or_default();
    let refresh = text(oauth, "refreshToken")?.unwrap_or_default();
    if access.is_empty() || oauth.get("expiresAt").and_then(Value::as_f64) == Some(0.0) {
        return Ok(None);
    }
    profile.access_token_place(access).map_err(|fault| Malformed::Member { member: "accessToken", fault })?;
    profile
        .refresh_token_place(refresh)
        .map_err(|fault| Malformed::Member { member: "refreshToken", fault })?;
    Ok(Some(Grant {
        access: token(AccessToken::parse(access), "accessToken")?,
        refresh: match refresh {
            "" => None,
            raw => Some(token(RefreshToken::parse(raw), "refreshToken")?),
        },
        expires_at: instant(oauth, "expiresAt")?,
        grant_expires_at: instant(oauth, "refreshTokenExpiresAt")?,
        scopes: scopes(oauth)?,
    }))
}

/// The bytes of an auth file that holds `grant`; every member of `original` that is not the grant's stays.
pub fn write(original: Option<&[u8]>, grant: &Grant) -> Vec<u8> {
    let mut file = original
        .and_then(|bytes| serde_json::from_slice::<Map<String, Value>>(bytes).ok())
        .unwrap_or_default();
    let member = file.entry(MEMBER).or_insert_with(|| json!({}));
    if !member.is_object() {
        *member = json!({});
    }
    if let Some(oauth) = member.as_object_mut() {
        oauth.insert("accessToken".into(), grant.access.expose().into());
        let refresh = grant.refresh.as_ref().map(RefreshToken::expose);
        oauth.insert("refreshToken".into(), refresh.map_or_else(|| "".into(), Value::from));
        oauth.insert("expiresAt".into(), millis(grant.expires_at));
        if grant.grant_expires_at.is_some() || oauth.contains_key("refreshTokenExpiresAt") {
            oauth.insert("refreshTokenExpiresAt".into(), millis(grant.grant_expires_at));
        }
        if !grant.scopes.is_empty() {
            oauth.insert("scopes".into(), json!(grant.scopes));
        }
    }
    let mut bytes = serde_json::to_vec_pretty(&file).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Whose login it is, where the file says so.
pub fn identity(bytes: &[u8]) -> Option<Identity> {
    let file: Value = serde_json::from_slice(bytes).ok()?;
    let oauth = file.get(MEMBER)?;
    let id = |member: &str| {
        let nested = [oauth, &file].map(|place| place.pointer(&format!("/{member}/uuid")));
        let flat = [oauth, &file].map(|place| place.get(format!("{member}Uuid")));
        let found = nested.into_iter().chain(flat).flatten().find_map(Value::as_str);
        found.filter(|id| !id.is_empty() && id.len() <= MOST_ID_LEN).map(str::to_owned)
    };
    let identity = Identity { account: id("account"), organization: id("organization") };
    (identity != Identity::default()).then_some(identity)
}

fn millis(at: Option<Timestamp>) -> Value {
    at.map_or(Value::Null, |at| at.as_millisecond().into())
}

fn text<'a>(oauth: &'a Map<String, Value>, member: &'static str) -> Result<Option<&'a str>, Malformed> {
    match oauth.get(member) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Malformed::Member { member, fault: "must be a string".into() }),
    }
}

fn token<T>(parsed: Result<T, crate::secret::NotAToken>, member: &'static str) -> Result<T, Malformed> {
    parsed.map_err(|fault| Malformed::Member { member, fault: format!("is no token: {fault}") })
}

fn instant(oauth: &Map<String, Value>, member: &'static str) -> Result<Option<Timestamp>, Malformed> {
    let fault = |fault: &str| Malformed::Member { member, fault: fault.to_owned() };
    let millis = match oauth.get(member) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.as_i64().or_else(|| number.as_f64().map(|float| float as i64)),
        Some(_) => None,
    };
    let millis = millis.ok_or_else(|| fault("must be a number: milliseconds since the epoch"))?;
    if member == "refreshTokenExpiresAt" && millis == 0 {
        return Ok(None);
    }
    if millis < LEAST_PLAUSIBLE_MILLIS {
        return Err(fault(
            "is in seconds or in the distant past; it must be in milliseconds since the epoch",
        ));
    }
    Timestamp::from_millisecond(millis).map(Some).map_err(|_| fault("is out of range"))
}

fn scopes(oauth: &Map<String, Value>) -> Result<Vec<String>, Malformed> {
    let fault = || Malformed::Member { member: "scopes", fault: "must be a list of strings".into() };
    match oauth.get("scopes") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => {
            list.iter().map(|scope| scope.as_str().map(str::to_owned).ok_or_else(fault)).collect()
        }
        Some(_) => Err(fault()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn profile() -> Profile {
        Profile::claude()
    }

    fn file(members: &str) -> Vec<u8> {
        format!(r#"{{"claudeAiOauth":{{{members}}}}}"#).into_bytes()
    }

    #[test]
    fn every_shape_of_file_has_its_reading() {
        let full =
            r#""accessToken":"sk-ant-oat01-a","refreshToken":"sk-ant-ort01-r","expiresAt":1765432100000"#;
        let Reading::Grant(grant) = read(&file(full), &profile()) else { panic!("a grant") };
        assert_eq!(grant.expires_at, Some(Timestamp::from_second(1_765_432_100).unwrap()));
        assert_eq!(grant.refresh.unwrap().expose(), "sk-ant-ort01-r");

        for wiped in [
            r#""accessToken":"","refreshToken":"sk-ant-ort01-r""#,
            r#""refreshToken":"sk-ant-ort01-r""#,
            r#""accessToken":"sk-ant-oat01-a","expiresAt":0"#,
            r#""accessToken":null,"refreshToken":null,"expiresAt":null"#,
        ] {
            assert_eq!(read(&file(wiped), &profile()), Reading::Wiped, "{wiped}");
        }
        for (members, says) in [
            (r#""accessToken":"sk-ant-ort01-r""#, "claudeAiOauth.accessToken holds a refresh token"),
            (r#""accessToken":"sk-ant-api03-k""#, "claudeAiOauth.accessToken holds an API key"),
            (
                r#""accessToken":"x","refreshToken":"sk-ant-oat01-a""#,
                "claudeAiOauth.refreshToken holds an access",
            ),
            (r#""accessToken":"x","expiresAt":1765432100"#, "claudeAiOauth.expiresAt is in seconds"),
            (r#""accessToken":"x","expiresAt":"soon""#, "claudeAiOauth.expiresAt must be a number"),
            (r#""accessToken":7"#, "claudeAiOauth.accessToken must be a string"),
            (r#""accessToken":"a b""#, "claudeAiOauth.accessToken is no token"),
            (r#""accessToken":"x","scopes":"all""#, "claudeAiOauth.scopes must be a list"),
        ] {
            let Reading::Malformed(fault) = read(&file(members), &profile()) else { panic!("{members}") };
            assert!(fault.to_string().starts_with(says), "{fault}");
        }
        for (bytes, says) in [
            (&b"{\n  nonsense"[..], "it is not JSON (line 2, column 3)"),
            (b"", "it is not JSON (line 1, column 0)"),
            (b"[]", "it has no object"),
            (b"{\"claudeAiOauth\":3}", "it has no object"),
        ] {
            let Reading::Malformed(fault) = read(bytes, &profile()) else { panic!("{says}") };
            assert!(fault.to_string().starts_with(says), "{fault}");
        }
        assert_eq!(read(&vec![b' '; MAX_LEN + 1], &profile()), Reading::Malformed(Malformed::TooLarge));
    }

    #[test]
    fn whose_login_it_is_stands_in_one_of_two_ways() {
        let of = |account: Option<&str>, organization: Option<&str>| {
            Some(Identity {
                account: account.map(str::to_owned),
                organization: organization.map(str::to_owned),
            })
        };
        let nested = r#""account":{"uuid":"a-1"},"organization":{"uuid":"o-1","name":"x"}"#;
        assert_eq!(identity(&file(nested)), of(Some("a-1"), Some("o-1")));
        assert_eq!(identity(&file(r#""accountUuid":"a-2","organization":null"#)), of(Some("a-2"), None));
        let outside = br#"{"claudeAiOauth":{},"organizationUuid":"o-2"}"#;
        assert_eq!(identity(outside), of(None, Some("o-2")));
        for none in [r#""accountUuid":7"#, r#""account":{"uuid":""}"#, ""] {
            assert_eq!(identity(&file(none)), None, "{none}");
        }
        assert_eq!(identity(b"nonsense"), None);
    }

    #[test]
    fn unknown_members_survive_a_write() {
        let original =
            br#"{"before":1,"claudeAiOauth":{"subscriptionType":"max","accessToken":"old","own":[2],
            "refreshTokenExpiresAt":null},"after":{"x":null}}"#;
        let grant = Grant {
            access: AccessToken::parse("new").unwrap(),
            refresh: Some(RefreshToken::parse("next").unwrap()),
            expires_at: Some(Timestamp::from_second(1_765_432_100).unwrap()),
            grant_expires_at: None,
            scopes: vec![],
        };
        let written: Value = serde_json::from_slice(&write(Some(original), &grant)).unwrap();
        assert_eq!(
            written,
            json!({"before":1,"claudeAiOauth":{"subscriptionType":"max","accessToken":"new","own":[2],
                "refreshTokenExpiresAt":null,"refreshToken":"next","expiresAt":1_765_432_100_000_i64},
                "after":{"x":null}})
        );
        let order: Vec<_> = written.as_object().unwrap().keys().cloned().collect();
        assert_eq!(order, ["before", "claudeAiOauth", "after"]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            access in "[!-~]{1,40}", refresh in proptest::option::of("[!-~]{1,40}"),
            expires in proptest::option::of(1_000_000_000_i64..4_000_000_000),
            scopes in proptest::collection::vec("[a-z:]{1,10}", 0..4),
        ) {
            let grant = Grant {
                access: AccessToken::parse(&access).unwrap(),
                refresh: refresh.map(|raw| RefreshToken::parse(&raw).unwrap()),
                expires_at: expires.map(|secs| Timestamp::from_second(secs).unwrap()),
                grant_expires_at: expires.map(|secs| Timestamp::from_second(secs + 9).unwrap()),
                scopes,
            };
            prop_assert_eq!(read(&write(None, &grant), &profile()), Reading::Grant(grant));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes, &profile());
        }
    }
}
