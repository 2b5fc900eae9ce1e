-- When the health of each chain of the vault is looked at next. A chain that is well is written here once in its access
-- token's life, by who looks; a rotation writes here only of a chain that has an episode, or that shows trouble.
CREATE TABLE health_looks (
  chain   TEXT COLLATE "C" PRIMARY KEY,
  next_ms BIGINT,
  -- An episode is open, or somebody is looking: a write of the chain's row is looked at at once.
  open    BOOLEAN NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX health_looks_due ON health_looks (next_ms) WHERE next_ms IS NOT NULL;
INSERT INTO health_looks SELECT chain, 0, FALSE FROM vault_rows;
