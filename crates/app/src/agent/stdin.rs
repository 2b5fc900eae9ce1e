//! `evergrant agent push --stdin`: a token that a command printed, or an auth file.

use std::io::Read;

use evergrant_core::AccessToken;
use evergrant_core::authfile::{self, MAX_LEN, Reading};
use evergrant_core::grant::Grant;
use evergrant_core::provider::Profile;

/// The grant on standard input.
pub(super) fn grant(profile: &Profile) -> Result<Grant, String> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(MAX_LEN as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("standard input cannot be read: {error}"))?;
    from(&bytes, profile)
}

fn from(bytes: &[u8], profile: &Profile) -> Result<Grant, String> {
    if bytes.trim_ascii().starts_with(b"{") {
        return match authfile::read(bytes, profile) {
            Reading::Grant(grant) => Ok(grant),
            Reading::Wiped => Err("the auth file on standard input was logged out; log in again".to_owned()),
            Reading::Malformed(fault) => Err(format!("standard input is no auth file: {fault}")),
        };
    }
    let prefix = profile.access_prefix.as_deref().unwrap_or_default();
    let text = String::from_utf8_lossy(bytes);
    // Commands print words, colours and frames around it.
    let of_token = |character: char| character.is_ascii_alphanumeric() || "-_.~+/=".contains(character);
    let mut found: Vec<&str> = text
        .match_indices(prefix)
        .map(|(start, _)| &text[start..])
        .map(|rest| &rest[..rest.find(|character| !of_token(character)).unwrap_or(rest.len())])
        .collect();
    found.sort_unstable();
    found.dedup();
    let raw = match found[..] {
        [one] if one.len() > prefix.len() => one,
        [] | [_] => {
            return Err(format!(
                "standard input holds no token that begins with {prefix}; pipe the output of the command that \
                 printed it, or an auth file"
            ));
        }
        _ => return Err("standard input holds several tokens; give one".to_owned()),
    };
    let access =
        AccessToken::parse(raw).map_err(|fault| format!("standard input holds no token: {fault}"))?;
    Ok(Grant { access, refresh: None, expires_at: None, grant_expires_at: None, scopes: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_among_what_a_command_prints() {
        let profile = Profile::claude();
        let prefix = profile.access_prefix.clone().unwrap();
        let token = format!("{prefix}not-a-real_one");
        for printed in [
            token.clone(),
            format!("{token}\n"),
            format!("\u{1b}[32mYour token:\u{1b}[0m\n\n  {token}\u{1b}[0m\n\nStore it.\n{token}\n"),
        ] {
            let grant = from(printed.as_bytes(), &profile).unwrap();
            assert_eq!((grant.access.expose(), grant.refresh), (token.as_str(), None), "{printed}");
        }
        for (wrong, says) in [
            (String::new(), "holds no token that begins with"),
            (prefix.clone(), "holds no token that begins with"),
            ("canary".to_owned(), "holds no token that begins with"),
            (format!("{token} {token}x"), "several"),
            ("{\"canary\": 1}".to_owned(), "is no auth file"),
        ] {
            let fault = from(wrong.as_bytes(), &profile).unwrap_err();
            assert!(fault.contains(says) && !fault.contains("canary"), "{fault}");
        }
        let file =
            format!("{{\"claudeAiOauth\":{{\"accessToken\":\"{token}\",\"expiresAt\":1999999999999}}}}");
        assert!(from(file.as_bytes(), &profile).unwrap().expires_at.is_some());
    }
}
