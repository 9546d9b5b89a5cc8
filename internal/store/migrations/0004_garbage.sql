-- The identity of this database, which the store of adapter files has too: a collector deletes nothing in the store of another database. listed_ns and listed_owner: when the last dry run of a collection was, and whose the store was then.
CREATE TABLE adapter_store (
  id BIGINT NOT NULL PRIMARY KEY,
  identity TEXT NOT NULL,
  listed_ns BIGINT NOT NULL,
  listed_owner TEXT NOT NULL
);
-- Blobs to which no version refers: since when, whether a command, a request or a failed upload left them (known), and when a dry run listed them.
CREATE TABLE adapter_garbage (
  blob TEXT NOT NULL PRIMARY KEY,
  seen_ns BIGINT NOT NULL,
  known BIGINT NOT NULL,
  listed_ns BIGINT NOT NULL
);
