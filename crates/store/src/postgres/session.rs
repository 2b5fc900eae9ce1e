//! One verb on one connection: bounded in time, and tried again where that is harmless.

use std::time::Duration;

use deadpool_postgres::{Client, GenericClient, Object, PoolError, TimeoutType, Transaction};
use tokio::time::error::Elapsed;
use tokio_postgres::types::ToSql;
use tokio_postgres::{IsolationLevel, Row};

use super::PostgresState;
use super::fault::{Fault, PostgresError};
use super::pool::{CONNECT_TIMEOUT, STATEMENT_TIMEOUT, WAIT_TIMEOUT};
use crate::state::StateError;

/// The server cuts a statement before; this is for one that does not answer at all.
pub(super) const VERB_TIMEOUT: Duration = STATEMENT_TIMEOUT.saturating_add(Duration::from_secs(5));
/// Transactions that got in each other's way are tried again so often.
const CONFLICTS: u32 = 8;

/// Whether a verb may be done twice, where nobody knows whether it was done once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// The second time changes nothing and answers the same.
    Fine,
    /// The second time would count twice, or answer otherwise.
    Wrong,
}

impl Repeat {
    pub(super) fn fine_if(fine: bool) -> Self {
        if fine { Self::Fine } else { Self::Wrong }
    }
}

/// A connection that goes back into the pool only when its work was finished: one that is dropped in the middle may
/// have a transaction open, or wait for a server that is gone.
pub(super) struct Borrowed(Option<Client>);

impl Borrowed {
    pub(super) fn client(&mut self) -> &mut Client {
        self.0.as_mut().expect("only what takes it by value takes the client out")
    }

    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Object::take(client));
        }
    }
}

/// Does a verb on a connection, again and again as [`Turns`] says: `run!(state, Repeat::Fine, |client| verb(client))`.
macro_rules! run {
    ($state:expr, $repeat:expr, |$client:ident| $work:expr) => {{
        let mut turns = $crate::postgres::session::Turns::new($state, $repeat);
        loop {
            let mut borrowed = turns.begin().await?;
            let $client = borrowed.client();
            let outcome = tokio::time::timeout($crate::postgres::session::VERB_TIMEOUT, $work).await;
            if let Some(done) = turns.end(borrowed, outcome).await? {
                break Ok(done);
            }
        }
    }};
}
pub(super) use run;

/// How often a verb was tried already, and whether it may be again.
pub(super) struct Turns<'a> {
    state: &'a PostgresState,
    repeat: Repeat,
    conflicts: u32,
    lost: bool,
}

impl<'a> Turns<'a> {
    pub(super) fn new(state: &'a PostgresState, repeat: Repeat) -> Self {
        Self { state, repeat, conflicts: 0, lost: false }
    }

    pub(super) async fn begin(&self) -> Result<Borrowed, StateError> {
        Ok(Borrowed(Some(self.state.connection().await?)))
    }

    /// What was done, or nothing if it is to be tried again.
    pub(super) async fn end<T>(
        &mut self,
        borrowed: Borrowed,
        outcome: Result<Result<T, Fault>, Elapsed>,
    ) -> Result<Option<T>, StateError> {
        let fault = match outcome {
            Ok(Ok(done)) => {
                borrowed.give_back();
                return Ok(Some(done));
            }
            Ok(Err(fault)) => fault,
            Err(_) => return Err(self.state.unreached(format!("no answer within {VERB_TIMEOUT:?}"))),
        };
        let error = fault.error();
        if error.is_some_and(PostgresError::is_lost) {
            // What else waits in the pool most likely leads to the same server that is no longer there.
            drop(borrowed);
            self.state.pool.retain(|_, _| false);
            let harmless = self.repeat == Repeat::Fine || !matches!(fault, Fault::InDoubt(_));
            if harmless && !std::mem::replace(&mut self.lost, true) {
                return Ok(None);
            }
        } else {
            borrowed.give_back();
            if error.is_some_and(PostgresError::is_conflict) && self.conflicts < CONFLICTS {
                self.conflicts += 1;
                tokio::time::sleep(Duration::from_millis(5) * self.conflicts).await;
                return Ok(None);
            }
        }
        Err(fault.at(&self.state.place))
    }
}

impl PostgresState {
    pub(super) async fn connection(&self) -> Result<Client, StateError> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Timeout(TimeoutType::Wait) => {
                let all = self.pool.status().max_size;
                self.unreached(format!(
                    "all {all} connections are in use, and none became free in {WAIT_TIMEOUT:?}"
                ))
            }
            PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle) => {
                self.unreached(format!("no connection within {CONNECT_TIMEOUT:?}"))
            }
            PoolError::Backend(error) => Fault::from(error).at(&self.place),
            PoolError::PostCreateHook(deadpool_postgres::HookError::Backend(error)) => {
                Fault::from(error).at(&self.place)
            }
            PoolError::PostCreateHook(deadpool_postgres::HookError::Message(why)) => {
                StateError::Unfit { place: self.place.to_string(), why: why.into_owned() }
            }
            PoolError::Closed | PoolError::NoRuntimeSpecified => StateError::Closed,
        })
    }

    fn unreached(&self, why: String) -> StateError {
        StateError::Unreached { place: self.place.to_string(), why }
    }
}

type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Reads rows by a statement that each connection prepares once.
pub(super) async fn rows(
    client: &impl GenericClient,
    query: &str,
    params: Params<'_>,
) -> Result<Vec<Row>, Fault> {
    let statement = client.prepare_cached(query).await?;
    Ok(client.query(&statement, params).await?)
}

/// The only row, if there is one.
pub(super) async fn row(
    client: &impl GenericClient,
    query: &str,
    params: Params<'_>,
) -> Result<Option<Row>, Fault> {
    let statement = client.prepare_cached(query).await?;
    Ok(client.query_opt(&statement, params).await?)
}

/// The only row, which is always there.
pub(super) async fn the_row(
    client: &impl GenericClient,
    query: &str,
    params: Params<'_>,
) -> Result<Row, Fault> {
    let statement = client.prepare_cached(query).await?;
    Ok(client.query_one(&statement, params).await?)
}

/// Changes rows within a transaction, and says how many.
pub(super) async fn change(
    transaction: &Transaction<'_>,
    query: &str,
    params: Params<'_>,
) -> Result<u64, Fault> {
    let statement = transaction.prepare_cached(query).await?;
    Ok(transaction.execute(&statement, params).await?)
}

/// Changes rows by one statement that is a transaction by itself. Gives its only row, if there is one.
pub(super) async fn change_alone(
    client: &Client,
    query: &str,
    params: Params<'_>,
) -> Result<Option<Row>, Fault> {
    let statement = client.prepare_cached(query).await?;
    client.query_opt(&statement, params).await.map_err(Fault::in_doubt)
}

pub(super) async fn begin(client: &mut Client) -> Result<Transaction<'_>, Fault> {
    Ok(client.transaction().await?)
}

/// A transaction in which every read sees the same instant.
pub(super) async fn snapshot(client: &mut Client) -> Result<Transaction<'_>, Fault> {
    let transaction = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
    Ok(transaction.read_only(true).start().await?)
}

pub(super) async fn commit(transaction: Transaction<'_>) -> Result<(), Fault> {
    transaction.commit().await.map_err(Fault::in_doubt)
}

/// PostgreSQL's integers are signed; nothing here comes near their end.
pub(super) fn signed(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}
