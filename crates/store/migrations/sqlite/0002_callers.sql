-- Caller keys, as JSON; the hash of a key beside it, the key itself nowhere.
CREATE TABLE callers (
  id         TEXT PRIMARY KEY,
  hash       TEXT NOT NULL UNIQUE,
  created_ms INTEGER NOT NULL,
  caller     TEXT NOT NULL
) STRICT;

-- One row: rises with every change of the callers, whoever makes it, so that a look costs one small read.
CREATE TABLE callers_version (
  one     INTEGER PRIMARY KEY CHECK (one = 1),
  version INTEGER NOT NULL
) STRICT;
INSERT INTO callers_version VALUES (1, 0);
CREATE TRIGGER callers_added AFTER INSERT ON callers
  BEGIN UPDATE callers_version SET version = version + 1; END;
CREATE TRIGGER callers_changed AFTER UPDATE ON callers
  BEGIN UPDATE callers_version SET version = version + 1; END;
CREATE TRIGGER callers_removed AFTER DELETE ON callers
  BEGIN UPDATE callers_version SET version = version + 1; END;

-- Who did what. Rows are added, and forgotten by age; never changed.
CREATE TABLE audit (
  seq   INTEGER PRIMARY KEY AUTOINCREMENT,
  at_ms INTEGER NOT NULL,
  entry TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_age ON audit (at_ms);
CREATE TRIGGER audit_is_append_only BEFORE UPDATE ON audit
  BEGIN SELECT raise(ABORT, 'the audit is never changed'); END;

-- Requests that the fallback key served, by chain and day since the epoch (UTC).
CREATE TABLE fallback_uses (
  chain TEXT NOT NULL,
  day   INTEGER NOT NULL,
  uses  INTEGER NOT NULL,
  PRIMARY KEY (chain, day)
) STRICT, WITHOUT ROWID;
