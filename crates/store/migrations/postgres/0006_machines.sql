-- Who goes by the name of a machine, and for how long yet. An intent names its machine, and only that one may say that no
-- answer to it came: two that had one name would each take the other's answers for lost.
CREATE TABLE machines (
  machine  TEXT COLLATE "C" PRIMARY KEY,
  instance TEXT COLLATE "C" NOT NULL,
  -- Grows each time that the instance says that it lives.
  beats    BIGINT NOT NULL,
  until_ms BIGINT NOT NULL
);
