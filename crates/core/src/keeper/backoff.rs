//! How long to wait after an attempt that spent nothing (SPEC §4, "Back-off").

use std::time::Duration;

use jiff::Timestamp;
use rand::{Rng, RngExt};

const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(300);

/// When to try again after the `count`th failure in a row.
///
/// Full jitter between 1 s and 2, 4, 8 … up to 300 s; never more than half of the life that the access token
/// has left, so that a short outage of the provider costs no request; at least what the provider asked for.
pub fn back_off(
    count: u32,
    retry_after: Option<Duration>,
    expires_at: Timestamp,
    now: Timestamp,
    rng: &mut impl Rng,
) -> Timestamp {
    let ceiling = MOST.min(LEAST * 2_u32.saturating_pow(count.min(16)));
    let mut wait = Duration::from_millis(rng.random_range(1_000..=ceiling.as_millis() as u64));
    if let Ok(left) = Duration::try_from(expires_at.duration_since(now))
        && !left.is_zero()
    {
        wait = wait.min((left / 2).max(LEAST));
    }
    now + wait.max(retry_after.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;

    proptest! {
        #[test]
        fn it_stays_within_its_bounds(
            count in 0_u32..100, retry_after in proptest::option::of(0_u64..5_000),
            left in -1_000_i64..100_000, seed in any::<u64>(),
        ) {
            let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
            let now = Timestamp::from_second(1_000_000).unwrap();
            let expires_at = Timestamp::from_second(1_000_000 + left).unwrap();
            let asked = retry_after.map(Duration::from_secs);
            let wait = back_off(count, asked, expires_at, now, &mut rng).duration_since(now);
            let wait = Duration::try_from(wait).unwrap();
            prop_assert!(wait >= LEAST.max(asked.unwrap_or_default()));
            prop_assert!(wait <= MOST.max(asked.unwrap_or_default()));
            if asked.is_none() && left > 2 {
                prop_assert!(now + wait < expires_at);
            }
        }
    }
}
