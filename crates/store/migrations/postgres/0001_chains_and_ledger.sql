-- Names compare by their bytes here as they do everywhere else: COLLATE "C".

-- What the state remembers of each chain, as JSON, with its position beside it so that it never goes backwards.
-- JSON is TEXT: it comes back as it was written.
CREATE TABLE chains (
  chain      TEXT COLLATE "C" PRIMARY KEY,
  lineage    BIGINT NOT NULL,
  generation BIGINT NOT NULL,
  record     TEXT NOT NULL
) WITH (fillfactor = 70);

-- Every pair that a rotation replaced: it is never presented or adopted again.
CREATE TABLE replaced (
  chain       TEXT COLLATE "C" NOT NULL,
  fingerprint TEXT COLLATE "C" NOT NULL,
  at_ms       BIGINT NOT NULL,
  PRIMARY KEY (chain, fingerprint)
);
CREATE INDEX replaced_by_age ON replaced (at_ms);

-- The last number that was given to an event of a chain. Who adds events holds the chain's row until its transaction
-- ends: numbers of one chain become visible in their order, so that a reader may go on after the last that it saw. A
-- sequence would not do: a transaction that ends late would slip its lower numbers in behind that reader.
CREATE TABLE chain_seqs (
  chain    TEXT COLLATE "C" PRIMARY KEY,
  last_seq BIGINT NOT NULL
) WITH (fillfactor = 70);

-- The ledger. `key` makes an event of one attempt and kind unique, so that a look may be repeated.
CREATE TABLE events (
  chain TEXT COLLATE "C" NOT NULL,
  seq   BIGINT NOT NULL,
  key   TEXT COLLATE "C",
  at_ms BIGINT NOT NULL,
  event TEXT NOT NULL,
  PRIMARY KEY (chain, seq)
);
CREATE UNIQUE INDEX events_by_key ON events (key) WHERE key IS NOT NULL;
CREATE INDEX events_by_age ON events (at_ms);
