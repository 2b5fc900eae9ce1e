//! Tells other processes that rows have changed, and hears of it. It only saves waiting: whoever hears nothing asks every
//! half second all the same.

use std::time::Duration;

use futures_channel::mpsc::UnboundedSender;
use futures_util::StreamExt as _;
use tokio_postgres::AsyncMessage;

use super::PostgresState;
use super::pool::{config, tls};
use super::session::{Repeat, change_alone, run};
use crate::state::StateError;

const LISTEN: &str = "LISTEN evergrant_rows";
/// How long to wait before a connection that was lost is made again.
const AGAIN: Duration = Duration::from_secs(2);

impl PostgresState {
    /// Tells every process that listens. A transaction of its own, which writes nothing: telling within those that commit
    /// would make them wait for each other.
    pub async fn tell(&self) -> Result<(), StateError> {
        let told: Result<_, StateError> =
            run!(self, Repeat::Fine, |client| change_alone(client, "NOTIFY evergrant_rows", &[]));
        told.map(|_| ())
    }

    /// Pokes whenever somebody tells, until `poke` is closed. A connection that is lost is made again.
    pub async fn listen(&self, poke: UnboundedSender<()>) {
        while !poke.is_closed() {
            if let Err(error) = self.hear(&poke).await {
                tracing::debug!(place = %self.place, %error, "changes are not heard of; they are asked for");
            }
            // What was missed meanwhile.
            let _ = poke.unbounded_send(());
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn hear(&self, poke: &UnboundedSender<()>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (client, mut connection) = config(&self.url).connect(tls(&self.url)?).await?;
        let mut messages = std::pin::pin!(futures_util::stream::poll_fn(move |context| {
            connection.poll_message(context)
        }));
        let mut listening = std::pin::pin!(client.simple_query(LISTEN));
        let mut listens = false;
        loop {
            tokio::select! {
                listened = &mut listening, if !listens => {
                    listened?;
                    listens = true;
                }
                message = messages.next() => match message {
                    None => return Ok(()),
                    Some(Ok(AsyncMessage::Notification(_))) => {
                        if poke.unbounded_send(()).is_err() {
                            return Ok(());
                        }
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.into()),
                },
            }
        }
    }
}
