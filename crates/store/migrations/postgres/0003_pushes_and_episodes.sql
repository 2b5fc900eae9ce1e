-- Since when a chain has a push track.
CREATE TABLE push_tracks (
  chain    TEXT COLLATE "C" PRIMARY KEY,
  since_ms BIGINT NOT NULL
);

-- Push events, by what they mean for silence and streaks; the ledger has the whole of each.
CREATE TABLE push_events (
  seq     BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  chain   TEXT COLLATE "C" NOT NULL,
  at_ms   BIGINT NOT NULL,
  kind    TEXT COLLATE "C" NOT NULL,
  outcome TEXT COLLATE "C" NOT NULL,
  reason  TEXT COLLATE "C" NOT NULL
);
CREATE INDEX push_events_by_chain ON push_events (chain, at_ms, outcome, kind, reason);
CREATE INDEX push_events_by_age ON push_events (at_ms);

-- The last event of each agent, as JSON.
CREATE TABLE push_agents (
  chain TEXT COLLATE "C" NOT NULL,
  agent TEXT COLLATE "C" NOT NULL,
  at_ms BIGINT NOT NULL,
  seen  TEXT NOT NULL,
  PRIMARY KEY (chain, agent)
) WITH (fillfactor = 70);

-- Messages that were taken lately: none is taken twice.
CREATE TABLE nonces (
  chain TEXT COLLATE "C" NOT NULL,
  nonce TEXT COLLATE "C" NOT NULL,
  at_ms BIGINT NOT NULL,
  PRIMARY KEY (chain, nonce)
);
CREATE INDEX nonces_by_age ON nonces (at_ms);

-- Whose login a chain holds, as JSON.
CREATE TABLE identities (
  chain    TEXT COLLATE "C" PRIMARY KEY,
  identity TEXT NOT NULL
);

-- When any server listened: silence counts only then.
CREATE TABLE listened (
  from_ms  BIGINT PRIMARY KEY,
  until_ms BIGINT NOT NULL
);

-- One row: rises with every change of episodes and mutes, so that nobody decides on what is no longer so. Every such
-- change takes it first.
CREATE TABLE book (
  one     INTEGER PRIMARY KEY CHECK (one = 1),
  version BIGINT NOT NULL
) WITH (fillfactor = 50);
INSERT INTO book VALUES (1, 0);

-- Episodes, as JSON. One open one at most of each chain and condition.
CREATE TABLE episodes (
  id        TEXT COLLATE "C" PRIMARY KEY,
  chain     TEXT COLLATE "C" NOT NULL,
  condition TEXT COLLATE "C" NOT NULL,
  opened_ms BIGINT NOT NULL,
  closed_ms BIGINT,
  owed      BOOLEAN NOT NULL,
  episode   TEXT NOT NULL
);
CREATE UNIQUE INDEX episodes_open ON episodes (chain, condition) WHERE closed_ms IS NULL;
CREATE INDEX episodes_by_condition ON episodes (chain, condition, opened_ms);
CREATE INDEX episodes_by_age ON episodes (opened_ms);
CREATE INDEX episodes_owed ON episodes (id) WHERE owed;

-- Maintenance windows, by chain.
CREATE TABLE mutes (
  chain    TEXT COLLATE "C" PRIMARY KEY,
  until_ms BIGINT NOT NULL
);

-- Alerts, as JSON, in the transaction of the episodes that they tell of. An id is told once. Who adds some holds the
-- book, so that their numbers are in order.
CREATE TABLE outbox (
  seq   BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  id    TEXT COLLATE "C" NOT NULL UNIQUE,
  at_ms BIGINT NOT NULL,
  alert TEXT NOT NULL
);
CREATE INDEX outbox_by_age ON outbox (at_ms);

-- Each alert on its way to each sink that wants it: waiting, delivered or dropped.
CREATE TABLE deliveries (
  sink       TEXT COLLATE "C" NOT NULL,
  seq        BIGINT NOT NULL REFERENCES outbox (seq) ON DELETE CASCADE,
  state      TEXT COLLATE "C" NOT NULL,
  attempts   BIGINT NOT NULL,
  next_ms    BIGINT NOT NULL,
  settled_ms BIGINT,
  detail     TEXT,
  PRIMARY KEY (sink, seq)
);
CREATE INDEX deliveries_waiting ON deliveries (sink, seq) WHERE state = 'waiting';
CREATE INDEX deliveries_by_alert ON deliveries (seq);

-- Who delivers to a sink, and until when: one process at a time, so that order is kept.
CREATE TABLE sink_leases (
  sink     TEXT COLLATE "C" PRIMARY KEY,
  holder   TEXT COLLATE "C" NOT NULL,
  until_ms BIGINT NOT NULL
);
