-- Versions of adapters are immutable; a name points to one of them.
CREATE TABLE adapter_versions (
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  digest TEXT NOT NULL,
  created_ns BIGINT NOT NULL,
  bytes BIGINT NOT NULL,
  manifest TEXT NOT NULL,
  info TEXT NOT NULL,
  chat_template TEXT NOT NULL,
  PRIMARY KEY (tenant, name, digest)
);
-- The files of a version by the SHA-256 of their bytes, which is their name in the blob store.
CREATE TABLE adapter_files (
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  digest TEXT NOT NULL,
  file TEXT NOT NULL,
  blob TEXT NOT NULL,
  bytes BIGINT NOT NULL,
  PRIMARY KEY (tenant, name, digest, file)
);
CREATE INDEX adapter_files_blob ON adapter_files (blob);
CREATE INDEX adapter_files_digest ON adapter_files (digest);
CREATE TABLE adapter_names (
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  digest TEXT NOT NULL,
  seq BIGINT NOT NULL,
  pinned BIGINT NOT NULL,
  PRIMARY KEY (tenant, name)
);
-- Every move of a name's pointer; back is the move that was in force before, 0 for none.
CREATE TABLE adapter_history (
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  seq BIGINT NOT NULL,
  digest TEXT NOT NULL,
  back BIGINT NOT NULL,
  at_ns BIGINT NOT NULL,
  PRIMARY KEY (tenant, name, seq)
);
CREATE TABLE adapter_tags (
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  tag TEXT NOT NULL,
  digest TEXT NOT NULL,
  PRIMARY KEY (tenant, name, tag)
);
-- Blobs that an upload under way is about to refer to: garbage collection leaves them alone.
CREATE TABLE adapter_claims (
  id TEXT NOT NULL,
  blob TEXT NOT NULL,
  at_ns BIGINT NOT NULL,
  PRIMARY KEY (id, blob)
);
-- Counts the changes of all tables above, so that a server sees cheaply that there was one.
CREATE TABLE adapter_changes (
  id BIGINT NOT NULL PRIMARY KEY,
  n BIGINT NOT NULL
);
INSERT INTO adapter_changes (id, n) VALUES (1, 0);
