//! Tells an outside dead-man that Evergrant itself lives: a server that is down cannot say so (SPEC §6).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use url::Url;

use crate::http::HttpClient;
use crate::world::World;

/// Nobody waits for longer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Health is looked at every minute; longer than this, and something is wrong with that.
const MOST_BETWEEN_LOOKS: Duration = Duration::from_secs(3 * 60);

/// When health was watched last, with success. All clones see the same.
#[derive(Debug, Clone)]
pub struct Looks(Arc<Mutex<Duration>>);

impl Looks {
    /// Looks that have yet to come; the first has as long as any other, from `now` on, the process's age.
    pub fn begun(now: Duration) -> Self {
        Self(Arc::new(Mutex::new(now)))
    }

    /// One succeeded.
    pub(crate) fn note(&self, now: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    fn go_on(&self, now: Duration) -> bool {
        now.saturating_sub(*self.0.lock().unwrap_or_else(PoisonError::into_inner)) <= MOST_BETWEEN_LOOKS
    }
}

/// Fetches `url` again and again, as long as the state answers and health is watched: a server that cannot remember, or
/// does not look, is not well.
pub async fn ping<W: World>(world: W, client: HttpClient, url: Url, every: Duration, looks: Looks) {
    let mut failing = false;
    loop {
        let fault = match evergrant_store::State::check(world.state()).await {
            Ok(()) if looks.go_on(world.monotonic()) => fetch(&client, &url).await,
            Ok(()) => Some("health has not been watched for minutes".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(fault) = fault.as_ref().filter(|_| !failing) {
            // Its path may be a secret.
            let host = url.host_str().unwrap_or_default();
            tracing::warn!(host, fault, "the outside dead-man was not told that this server lives");
        }
        failing = fault.is_some();
        world.sleep(every).await;
    }
}

async fn fetch(client: &HttpClient, url: &Url) -> Option<String> {
    match tokio::time::timeout(TIMEOUT, client.call(Method::GET, url, &[], Bytes::new())).await {
        Ok(Ok(reply)) if (200..300).contains(&reply.status) => None,
        Ok(Ok(reply)) => Some(format!("it answered {}", reply.status)),
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("no answer within 10 s".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_looks_no_more_is_not_well() {
        let at = Duration::from_secs;
        let looks = Looks::begun(at(100));
        assert!(looks.go_on(at(280)) && !looks.go_on(at(281)));
        looks.note(at(300));
        assert!(looks.go_on(at(480)) && !looks.go_on(at(481)));
    }
}
