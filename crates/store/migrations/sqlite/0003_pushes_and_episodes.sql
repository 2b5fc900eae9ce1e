-- Since when a chain has a push track.
CREATE TABLE push_tracks (
  chain    TEXT PRIMARY KEY,
  since_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Push events, by what they mean for silence and streaks; the ledger has the whole of each.
CREATE TABLE push_events (
  seq     INTEGER PRIMARY KEY AUTOINCREMENT,
  chain   TEXT NOT NULL,
  at_ms   INTEGER NOT NULL,
  kind    TEXT NOT NULL,
  outcome TEXT NOT NULL,
  reason  TEXT NOT NULL
) STRICT;
CREATE INDEX push_events_by_chain ON push_events (chain, at_ms, outcome, kind, reason);
CREATE INDEX push_events_by_age ON push_events (at_ms);

-- The last event of each agent, as JSON.
CREATE TABLE push_agents (
  chain TEXT NOT NULL,
  agent TEXT NOT NULL,
  at_ms INTEGER NOT NULL,
  seen  TEXT NOT NULL,
  PRIMARY KEY (chain, agent)
) STRICT, WITHOUT ROWID;

-- Messages that were taken lately: none is taken twice.
CREATE TABLE nonces (
  chain TEXT NOT NULL,
  nonce TEXT NOT NULL,
  at_ms INTEGER NOT NULL,
  PRIMARY KEY (chain, nonce)
) STRICT, WITHOUT ROWID;
CREATE INDEX nonces_by_age ON nonces (at_ms);

-- Whose login a chain holds, as JSON.
CREATE TABLE identities (
  chain    TEXT PRIMARY KEY,
  identity TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- When any server listened: silence counts only then.
CREATE TABLE listened (
  from_ms  INTEGER PRIMARY KEY,
  until_ms INTEGER NOT NULL
) STRICT;

-- One row: rises with every change of episodes and mutes, so that nobody decides on what is no longer so.
CREATE TABLE book (
  one     INTEGER PRIMARY KEY CHECK (one = 1),
  version INTEGER NOT NULL
) STRICT;
INSERT INTO book VALUES (1, 0);

-- Episodes, as JSON. One open one at most of each chain and condition.
CREATE TABLE episodes (
  id        TEXT PRIMARY KEY,
  chain     TEXT NOT NULL,
  condition TEXT NOT NULL,
  opened_ms INTEGER NOT NULL,
  closed_ms INTEGER,
  owed      INTEGER NOT NULL,
  episode   TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX episodes_open ON episodes (chain, condition) WHERE closed_ms IS NULL;
CREATE INDEX episodes_by_condition ON episodes (chain, condition, opened_ms);
CREATE INDEX episodes_by_age ON episodes (opened_ms);
CREATE INDEX episodes_owed ON episodes (owed) WHERE owed = 1;

-- Maintenance windows, by chain.
CREATE TABLE mutes (
  chain    TEXT PRIMARY KEY,
  until_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Alerts, as JSON, in the transaction of the episodes that they tell of. An id is told once.
CREATE TABLE outbox (
  seq   INTEGER PRIMARY KEY AUTOINCREMENT,
  id    TEXT NOT NULL UNIQUE,
  at_ms INTEGER NOT NULL,
  alert TEXT NOT NULL
) STRICT;
CREATE INDEX outbox_by_age ON outbox (at_ms);

-- Each alert on its way to each sink that wants it: waiting, delivered or dropped.
CREATE TABLE deliveries (
  sink       TEXT NOT NULL,
  seq        INTEGER NOT NULL REFERENCES outbox (seq) ON DELETE CASCADE,
  state      TEXT NOT NULL,
  attempts   INTEGER NOT NULL,
  next_ms    INTEGER NOT NULL,
  settled_ms INTEGER,
  detail     TEXT,
  PRIMARY KEY (sink, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_waiting ON deliveries (sink, seq) WHERE state = 'waiting';
CREATE INDEX deliveries_by_alert ON deliveries (seq);

-- Who delivers to a sink, and until when: one process at a time, so that order is kept.
CREATE TABLE sink_leases (
  sink     TEXT PRIMARY KEY,
  holder   TEXT NOT NULL,
  until_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
