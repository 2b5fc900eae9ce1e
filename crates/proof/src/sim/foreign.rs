//! Another program that rotates the pair: it reads the auth file, exchanges at the provider itself and writes the
//! file, and knows nothing of our locks.

use std::time::Duration;

use evergrant_core::RefreshToken;
use rand::RngExt;
use serde_json::Value;

use super::disk::When;
use super::fault::Fault;
use super::places::FILE;
use super::provider::Presenter;
use super::reference::MARK;
use super::run::Sim;
use super::world::{FOREIGN, lock, true_time};

impl Sim {
    /// Begins such a rotation, if the file holds a grant. `when`: the moment of its write, once it has an answer.
    pub(super) fn foreign(&mut self, when: When) {
        let file = self.disk.content(FILE).and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let Some(mut file) = file else { return };
        let token = file["claudeAiOauth"]["refreshToken"].as_str().map(RefreshToken::parse);
        let Some(Ok(token)) = token else { return };
        file[MARK] = self.next_mark();
        let request = crate::profile().refresh_request(&token);
        let (disk, provider, executor) = (self.disk.clone(), self.provider.clone(), self.executor.clone());
        let wait = || Duration::from_millis(lock(&provider).rng.random_range(1..1_000));
        let (way, back) = (wait(), wait());
        self.executor.spawn(FOREIGN, async move {
            executor.sleep(way).await;
            let now = executor.now();
            let processed = lock(&provider).process(&request, Presenter::Foreign, now);
            executor.sleep(back).await;
            let answer: Value = serde_json::from_str(&processed.body).unwrap_or_default();
            if processed.next.is_none() {
                return;
            }
            lock(&provider).tally.count(Fault::ForeignRotation);
            let life = Duration::from_secs(answer["expires_in"].as_u64().unwrap_or_default());
            let oauth = &mut file["claudeAiOauth"];
            oauth["accessToken"] = answer["access_token"].clone();
            oauth["refreshToken"] = answer["refresh_token"].clone();
            oauth["expiresAt"] = (true_time(now) + life).as_millisecond().into();
            disk.edit(when, Some(file.to_string().into_bytes()));
        });
    }
}
