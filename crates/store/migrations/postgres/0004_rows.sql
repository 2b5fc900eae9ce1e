-- Chains whose pairs are of record here, sealed. What decides stands beside the record as a column: where the row stands
-- (lineage, generation, attempt), who may rotate it until when, and when it is to be looked at next. A row that is claimed
-- is looked at next when its lease ends, so that what is due and nobody's is one range of one index.
CREATE TABLE vault_rows (
  chain       TEXT COLLATE "C" PRIMARY KEY,
  lineage     BIGINT NOT NULL,
  generation  BIGINT NOT NULL,
  attempt     BIGINT NOT NULL,
  epoch       BIGINT NOT NULL,
  holder      TEXT COLLATE "C",
  lease_ms    BIGINT,
  wakes_ms    BIGINT,
  -- The machine of the open intent.
  machine     TEXT COLLATE "C",
  record      TEXT NOT NULL,
  sealed      BYTEA NOT NULL,
  -- The transaction that wrote it last: readers who follow go on from the oldest that had not ended.
  changed     XID8 NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX vault_rows_due ON vault_rows (wakes_ms) WHERE wakes_ms IS NOT NULL;
CREATE INDEX vault_rows_left_open ON vault_rows (machine) WHERE machine IS NOT NULL;
CREATE INDEX vault_rows_changed ON vault_rows (changed);
