//! Where everything lies on the simulated disk.

/// The auth file.
pub const FILE: &str = "/grant/auth.json";
/// The folder beside it.
pub const FOLDER: &str = "/grant/auth.json.evergrant";
/// The lock of the chain.
pub const LOCK: &str = "/grant/auth.json.evergrant/lock";
/// The record of the chain.
pub const RECORD: &str = "/grant/auth.json.evergrant/chain.json";
/// The receipts.
pub const RECEIPTS: &str = "/grant/auth.json.evergrant/receipts";
/// The receipts of rows, where a database is the vault.
pub const ROW_RECEIPTS: &str = "/grant/rows";
/// The fingerprints of replaced pairs.
pub const REPLACED: &str = "/grant/auth.json.evergrant/replaced";
