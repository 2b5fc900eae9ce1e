//! A state on one machine is no vault: pairs of record are shared by machines, or lie in auth files.

use std::time::Duration;

use evergrant_core::ChainName;
use evergrant_core::chain::Mark;
use evergrant_core::event::Event;
use evergrant_core::secret::Fingerprint;
use jiff::Timestamp;

use super::SqliteState;
use crate::seal::Sealed;
use crate::state::StateError;
use crate::vault::{
    Changes, ChangesCursor, Claim, Claimed, HealthClaim, HealthLooked, Holder, Incarnation, NewRow, NextRow,
    Row, VaultState,
};

impl VaultState for SqliteState {
    async fn claim_due(&self, _: &Holder, _: Duration, _: usize) -> Result<Vec<Claim>, StateError> {
        Err(StateError::NoVault)
    }

    async fn claim_left_open(&self, _: &Holder, _: Duration, _: usize) -> Result<Vec<Claim>, StateError> {
        Err(StateError::NoVault)
    }

    async fn claim(&self, _: &ChainName, _: &Holder, _: Duration) -> Result<Claimed, StateError> {
        Err(StateError::NoVault)
    }

    async fn begin_rotation(&self, _: &Claim, _: NextRow<'_>, _: Duration) -> Result<bool, StateError> {
        Err(StateError::NoVault)
    }

    async fn settle_rotation(&self, _: Mark, _: NextRow<'_>) -> Result<bool, StateError> {
        Err(StateError::NoVault)
    }

    async fn doubt_rotation(&self, _: &Claim, _: NextRow<'_>) -> Result<bool, StateError> {
        Err(StateError::NoVault)
    }

    async fn release(&self, _: &Claim, _: Option<Timestamp>) -> Result<(), StateError> {
        Err(StateError::NoVault)
    }

    async fn take_in(&self, _: Option<Mark>, _: NextRow<'_>) -> Result<bool, StateError> {
        Err(StateError::NoVault)
    }

    async fn add_replaced(&self, _: &ChainName, _: Fingerprint, _: Timestamp) -> Result<(), StateError> {
        Err(StateError::NoVault)
    }

    async fn take_in_new(&self, _: &[NewRow]) -> Result<u64, StateError> {
        Err(StateError::NoVault)
    }

    async fn row(&self, _: &ChainName) -> Result<Option<Row>, StateError> {
        Err(StateError::NoVault)
    }

    async fn rows_after(&self, _: Option<&ChainName>, _: usize) -> Result<Vec<Row>, StateError> {
        Err(StateError::NoVault)
    }

    async fn reseal(&self, _: &ChainName, _: &Sealed, _: &Sealed) -> Result<bool, StateError> {
        Err(StateError::NoVault)
    }

    async fn claim_health(&self, _: Duration, _: usize) -> Result<Vec<HealthClaim>, StateError> {
        Err(StateError::NoVault)
    }

    async fn settle_health(&self, _: &[HealthLooked]) -> Result<(), StateError> {
        Err(StateError::NoVault)
    }

    /// The chains of one machine are looked at every minute.
    async fn wake_health(&self, _: &ChainName) -> Result<(), StateError> {
        Ok(())
    }

    async fn events_since(&self, _: &[ChainName], _: Timestamp) -> Result<Vec<Event>, StateError> {
        Err(StateError::NoVault)
    }

    async fn changes(&self, _: Option<ChangesCursor>, _: usize) -> Result<Changes, StateError> {
        Err(StateError::NoVault)
    }

    async fn incarnation(&self, _: Duration) -> Result<Incarnation, StateError> {
        Err(StateError::NoVault)
    }

    async fn hold_on(&self, _: Duration) -> Result<(), StateError> {
        Err(StateError::NoVault)
    }

    async fn behind(&self, _: &[(ChainName, Mark)]) -> Result<Vec<ChainName>, StateError> {
        Err(StateError::NoVault)
    }

    async fn miss(&self, _: &[ChainName]) -> Result<Vec<ChainName>, StateError> {
        Err(StateError::NoVault)
    }
}
