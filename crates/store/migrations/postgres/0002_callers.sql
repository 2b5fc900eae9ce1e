-- Caller keys, as JSON; the hash of a key beside it, the key itself nowhere.
CREATE TABLE callers (
  id         TEXT COLLATE "C" PRIMARY KEY,
  hash       TEXT COLLATE "C" NOT NULL UNIQUE,
  created_ms BIGINT NOT NULL,
  caller     TEXT NOT NULL
);

-- One row: rises with every change of the callers, whoever makes it, so that a look costs one small read. It is held
-- until the change is seen, so that changes are seen in the order of their numbers.
CREATE TABLE callers_version (
  one     INTEGER PRIMARY KEY CHECK (one = 1),
  version BIGINT NOT NULL
) WITH (fillfactor = 50);
INSERT INTO callers_version VALUES (1, 0);
CREATE FUNCTION callers_have_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE callers_version SET version = version + 1;
  RETURN NULL;
END $$;
CREATE TRIGGER callers_changed AFTER INSERT OR UPDATE OR DELETE ON callers
  FOR EACH ROW EXECUTE FUNCTION callers_have_changed();

-- Who did what. Rows are added, and forgotten by age; never changed.
CREATE TABLE audit (
  seq   BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at_ms BIGINT NOT NULL,
  entry TEXT NOT NULL
);
CREATE INDEX audit_by_age ON audit (at_ms);
CREATE FUNCTION audit_refuses() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the audit is never changed';
END $$;
CREATE TRIGGER audit_is_append_only BEFORE UPDATE ON audit
  FOR EACH STATEMENT EXECUTE FUNCTION audit_refuses();

-- Requests that the fallback key served, by chain and day since the epoch (UTC).
CREATE TABLE fallback_uses (
  chain TEXT COLLATE "C" NOT NULL,
  day   INTEGER NOT NULL,
  uses  BIGINT NOT NULL,
  PRIMARY KEY (chain, day)
);
