-- The index of captured requests, answers and feedback; their text lies encrypted in segment files. Users,
-- conversations and prefixes of messages are digests under a key that only the encrypted data key gives.
CREATE TABLE capture_keys (
  tenant TEXT NOT NULL PRIMARY KEY,
  id TEXT NOT NULL,
  wrapped TEXT NOT NULL,
  master TEXT NOT NULL,
  seq BIGINT NOT NULL,
  aged_ns BIGINT NOT NULL
);
-- A file of a writer: bytes is its length up to the last record in the index, dirty 1 while it has deleted bytes.
CREATE TABLE capture_segments (
  id TEXT NOT NULL PRIMARY KEY,
  tenant TEXT NOT NULL,
  writer TEXT NOT NULL,
  bytes BIGINT NOT NULL,
  dirty BIGINT NOT NULL,
  created_ns BIGINT NOT NULL
);
CREATE INDEX capture_segments_writer ON capture_segments (writer, tenant, created_ns);
CREATE TABLE capture_records (
  tenant TEXT NOT NULL,
  id TEXT NOT NULL,
  seq BIGINT NOT NULL,
  revision BIGINT NOT NULL,
  conversation TEXT NOT NULL,
  user_digest TEXT NOT NULL,
  model TEXT NOT NULL,
  choices BIGINT NOT NULL,
  created_ns BIGINT NOT NULL,
  segment TEXT NOT NULL,
  position BIGINT NOT NULL,
  length BIGINT NOT NULL,
  PRIMARY KEY (tenant, id)
);
CREATE UNIQUE INDEX capture_records_seq ON capture_records (tenant, seq);
CREATE INDEX capture_records_user ON capture_records (tenant, user_digest);
CREATE INDEX capture_records_conversation ON capture_records (tenant, conversation);
CREATE INDEX capture_records_created ON capture_records (tenant, created_ns);
CREATE INDEX capture_records_segment ON capture_records (segment);
-- Digests of a record's messages followed by one of its answers: a request that begins with them continues it.
CREATE TABLE capture_prefixes (
  tenant TEXT NOT NULL,
  digest TEXT NOT NULL,
  id TEXT NOT NULL,
  seq BIGINT NOT NULL,
  PRIMARY KEY (tenant, digest, id)
);
CREATE INDEX capture_prefixes_id ON capture_prefixes (tenant, id);
CREATE TABLE capture_feedback (
  tenant TEXT NOT NULL,
  seq BIGINT NOT NULL,
  token TEXT NOT NULL,
  id TEXT NOT NULL,
  choice BIGINT NOT NULL,
  segment TEXT NOT NULL,
  position BIGINT NOT NULL,
  length BIGINT NOT NULL,
  PRIMARY KEY (tenant, seq)
);
CREATE UNIQUE INDEX capture_feedback_token ON capture_feedback (tenant, token);
CREATE INDEX capture_feedback_id ON capture_feedback (tenant, id);
CREATE INDEX capture_feedback_segment ON capture_feedback (segment);
-- Users and conversations whose records up to a time are deleted, also those that are still on their way.
CREATE TABLE capture_forgotten (
  tenant TEXT NOT NULL,
  digest TEXT NOT NULL,
  until_ns BIGINT NOT NULL,
  PRIMARY KEY (tenant, digest)
);
-- The folders of segments that belong to this database.
CREATE TABLE capture_places (
  place TEXT NOT NULL PRIMARY KEY
);
