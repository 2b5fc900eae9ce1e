//! Clients that send requests through a gateway all the time, and count what comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use evergrant_server::http::HttpClient;
use http::Method;
use tokio::task::JoinHandle;
use url::Url;

/// Requests on their way, until it is stopped.
pub(super) struct Load {
    counts: Arc<Counts>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Load {
    /// `clients` at a time, each with a short pause between two requests.
    pub(super) fn start(
        clients: usize,
        client: &HttpClient,
        url: &Url,
        headers: &[(String, String)],
        body: &str,
    ) -> Self {
        let counts = Arc::<Counts>::default();
        let one = |_| {
            let (counts, client, url) = (counts.clone(), client.clone(), url.clone());
            let (headers, body) = (headers.to_vec(), Bytes::copy_from_slice(body.as_bytes()));
            tokio::spawn(async move {
                while !counts.stop.load(Ordering::Acquire) {
                    match client.call(Method::POST, &url, &headers, body.clone()).await {
                        Ok(reply) if reply.status == 200 => counts.answered.fetch_add(1, Ordering::AcqRel),
                        Ok(_) | Err(_) => counts.failed.fetch_add(1, Ordering::AcqRel),
                    };
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        };
        let clients = (0..clients).map(one).collect();
        Self { counts, clients }
    }

    /// Stops, and says how many requests were answered and how many failed.
    pub(super) async fn stop(self) -> (u64, u64) {
        self.counts.stop.store(true, Ordering::Release);
        for client in self.clients {
            let _ = client.await;
        }
        (self.counts.answered.load(Ordering::Acquire), self.counts.failed.load(Ordering::Acquire))
    }
}
