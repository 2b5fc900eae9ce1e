//! A world that lies about one thing, so that the keeper is broken in one way without a switch in its code: the
//! simulator has to find each of them.
//!
//! What a database vault adds to them is in `replicas`.

/// What the world lies about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// The lock of the chain is granted to everybody.
    LockIgnored,
    /// Writes of the record are acknowledged, and never durable: a token is sent before its intent is.
    IntentNotDurable,
    /// Writes of receipt and auth file are acknowledged, and never durable: a pair is published before it is.
    PublishedBeforeSync,
    /// The answer's write into its receipt is acknowledged, and dropped.
    ReceiptSkipped,
    /// The same, and it counts as one that never was: the keeper drops the answer itself.
    AnswerDropped,
    /// A lost answer is told as a request that was never sent.
    DoubtAsFailed,
    /// A 5xx from before the provider is told as the provider's own.
    ServerErrorAsUnspent,
    /// A receipt of an older lineage reads like one of the current position.
    StaleLineageCommitted,
    /// Receipts are hidden while the file holds another pair than the record: adoption comes before them.
    AdoptionBeforeReceipts,
    /// Replaced pairs are forgotten, and with them the receipts that could put the newest one back.
    ReplacedForgotten,
    /// Two attempts in a row share one receipt.
    SharedReceipt,
    /// The locks of receipts are granted to everybody: nobody sees that an answer is still being read.
    SecondWhileReading,
    /// The file system cannot exchange two files: a plain rename takes an edit that falls in between.
    PlainRename,
    /// An exchange with a file that is gone makes it again.
    RemovedMadeAgain,
    /// Readers take every snapshot, newer or not.
    OlderSnapshot,
}

impl Lie {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::LockIgnored,
        Self::IntentNotDurable,
        Self::PublishedBeforeSync,
        Self::ReceiptSkipped,
        Self::AnswerDropped,
        Self::DoubtAsFailed,
        Self::ServerErrorAsUnspent,
        Self::StaleLineageCommitted,
        Self::AdoptionBeforeReceipts,
        Self::ReplacedForgotten,
        Self::SharedReceipt,
        Self::SecondWhileReading,
        Self::PlainRename,
        Self::RemovedMadeAgain,
        Self::OlderSnapshot,
    ];
}
