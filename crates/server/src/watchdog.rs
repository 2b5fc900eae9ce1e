//! Tells an outside dead-man that Evergrant itself lives: a server that is down cannot say so (SPEC §6).

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use url::Url;

use crate::http::HttpClient;
use crate::world::World;

/// Nobody waits for longer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Fetches `url` again and again, as long as the state answers: a server that cannot remember is not well.
pub async fn ping<W: World>(world: W, client: HttpClient, url: Url, every: Duration) {
    let mut failing = false;
    loop {
        let fault = match evergrant_store::State::check(world.state()).await {
            Ok(()) => fetch(&client, &url).await,
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
