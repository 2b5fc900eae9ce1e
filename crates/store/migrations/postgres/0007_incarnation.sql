-- Which life of this database it is: since one start of the server, and with the rows in one file. A database that was restored
-- has another one, unless only its rows were deleted and copied in; so has one that was only started again.
CREATE FUNCTION this_incarnation() RETURNS TEXT LANGUAGE sql STABLE AS $$
  SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint::text
    || '/' || pg_relation_filepath('vault_rows')
$$;

-- One row: the last one that somebody asked for, and until when it takes no intent: whoever has seen more than it holds can say
-- so meanwhile. Rows that are older than this table are compared first.
CREATE TABLE incarnation (
  one      INTEGER PRIMARY KEY CHECK (one = 1),
  id       TEXT COLLATE "C" NOT NULL,
  until_ms BIGINT NOT NULL
) WITH (fillfactor = 50);
INSERT INTO incarnation SELECT 1, CASE WHEN EXISTS (SELECT FROM vault_rows) THEN '' ELSE this_incarnation() END, 0;
