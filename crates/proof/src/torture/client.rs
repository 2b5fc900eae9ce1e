//! A foreign client that renews the same login as the provider's own does: its two directory locks, a look at the
//! file, one exchange, a write.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use evergrant_core::RefreshToken;
use evergrant_core::provider::Profile;
use evergrant_server::http::HttpClient;
use evergrant_standin::{Fingerprint, Handle};
use serde_json::Value;

use super::vault;

/// The client.
pub(super) struct ForeignClient {
    pub(super) auth_file: PathBuf,
    pub(super) profile: Profile,
    pub(super) http: HttpClient,
    pub(super) standin: Handle,
    /// What it has presented; shared with the ledger.
    pub(super) presented: Presented,
}

/// Tokens that the client has presented.
#[derive(Debug, Clone, Default)]
pub(super) struct Presented(Arc<Mutex<BTreeSet<Fingerprint>>>);

impl Presented {
    pub(super) fn contains(&self, token: &Fingerprint) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(token)
    }

    fn insert(&self, token: Fingerprint) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(token);
    }
}

/// What became of one renewal.
pub(super) enum Renewal {
    /// Somebody else has the locks.
    Busy,
    /// The file has the new pair.
    Done,
    /// The token was presented, and nothing usable came back: somebody has to log in, under the locks.
    Lost,
    /// The provider refused the token.
    Refused,
}

/// Both directories, removed when it goes.
struct Locks(Vec<PathBuf>);

impl Locks {
    fn take(auth_file: &Path) -> Option<Self> {
        let folder = auth_file.parent()?;
        let mut second = folder.as_os_str().to_owned();
        second.push(".lock");
        let mut taken = Self(Vec::new());
        for lock in [folder.join(".oauth_refresh.lock"), second.into()] {
            fs::create_dir(&lock).ok()?;
            taken.0.push(lock);
        }
        Some(taken)
    }
}

impl Drop for Locks {
    fn drop(&mut self) {
        for lock in self.0.iter().rev() {
            let _ = fs::remove_dir(lock);
        }
    }
}

impl ForeignClient {
    /// One renewal. Where the answer is lost, `log_in` gives a new grant while the locks are still held.
    pub(super) async fn renew(&self, log_in: impl FnOnce() -> Vec<u8>) -> Result<Renewal, String> {
        let Some(_locks) = Locks::take(&self.auth_file) else { return Ok(Renewal::Busy) };
        let presented = vault::refresh_token(&self.auth_file)?;
        self.presented.insert(Fingerprint::of(&presented));
        let refresh = RefreshToken::parse(&presented).map_err(|error| format!("{error:?}"))?;
        let request = self.profile.refresh_request(&refresh);
        let body = request.body.as_bytes().to_vec().into();
        let reply = self.http.call(http::Method::POST, &request.url, &request.headers, body).await;
        let answer = reply.ok().map(|reply| (reply.status, serde_json::from_slice::<Value>(&reply.body)));
        if let Some((400, _)) = answer {
            return Ok(Renewal::Refused);
        }
        let tokens = answer.and_then(|(_, body)| body.ok()).filter(|body| body["refresh_token"].is_string());
        let (bytes, done) = match tokens {
            Some(tokens) => (self.renewed(&tokens)?, Renewal::Done),
            None => (log_in(), Renewal::Lost),
        };
        vault::write(&self.auth_file, "client", &bytes)
            .map_err(|error| format!("the client cannot write: {error}"))?;
        Ok(done)
    }

    fn renewed(&self, tokens: &Value) -> Result<Vec<u8>, String> {
        let bytes = fs::read(&self.auth_file).map_err(|error| error.to_string())?;
        let mut file: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        let life = tokens["expires_in"].as_i64().unwrap_or_default();
        let expires_at = self.standin.now().as_millisecond() + life * 1_000;
        file["claudeAiOauth"]["accessToken"] = tokens["access_token"].clone();
        file["claudeAiOauth"]["refreshToken"] = tokens["refresh_token"].clone();
        file["claudeAiOauth"]["expiresAt"] = expires_at.into();
        Ok(file.to_string().into_bytes())
    }
}
