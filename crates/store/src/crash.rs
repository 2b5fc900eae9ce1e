//! Named points between the steps of a rotation, at which a test can make the process die (feature
//! `crash-points`; without it they are nothing).

/// Every point, in the order of a rotation. Tests walk this list.
pub const POINTS: [&str; 14] = [
    "locked",
    "reserved",
    "intended",
    "intent_in_state",
    "answered",
    "receipt_written",
    "fresh_written",
    "staged",
    "exchanged",
    "file_replaced",
    "replaced_remembered",
    "record_written",
    "receipts_dropped",
    "state_written",
];

/// Aborts the process if `EVERGRANT_CRASH_AT` names this point.
#[cfg(feature = "crash-points")]
pub fn point(name: &'static str) {
    static AT: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    debug_assert!(POINTS.contains(&name), "{name} is missing in the list");
    if AT.get_or_init(|| std::env::var("EVERGRANT_CRASH_AT").ok()).as_deref() == Some(name) {
        std::process::abort();
    }
}

/// Nothing, in a build without the feature.
#[cfg(not(feature = "crash-points"))]
pub fn point(_name: &'static str) {}
