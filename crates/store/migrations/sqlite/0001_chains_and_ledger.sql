-- What the state remembers of each chain, as JSON, with its position beside it so that it never goes backwards.
CREATE TABLE chains (
  chain      TEXT PRIMARY KEY,
  lineage    INTEGER NOT NULL,
  generation INTEGER NOT NULL,
  record     TEXT NOT NULL
) STRICT;

-- Every pair that a rotation replaced: it is never presented or adopted again.
CREATE TABLE replaced (
  chain       TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  at_ms       INTEGER NOT NULL,
  PRIMARY KEY (chain, fingerprint)
) STRICT, WITHOUT ROWID;
CREATE INDEX replaced_by_age ON replaced (at_ms);

-- The ledger. `key` makes an event of one attempt and kind unique, so that a look may be repeated.
CREATE TABLE events (
  seq        INTEGER PRIMARY KEY AUTOINCREMENT,
  key        TEXT UNIQUE,
  chain      TEXT NOT NULL,
  at_ms      INTEGER NOT NULL,
  event      TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_chain ON events (chain, seq);
CREATE INDEX events_by_age ON events (at_ms);
