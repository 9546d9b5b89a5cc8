-- Versions of adapters are immutable; a name points to one of them.
CREATE TABLE adapter_versions (
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  digest TEXT NOT NULL,
  created_ns BIGINT NOT NULL,
  info TEXT NOT NULL,
  bytes BIGINT NOT NULL,
  PRIMARY KEY (tenant, name, digest)
);
CREATE TABLE adapter_names (
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  digest TEXT NOT NULL,
  pinned BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (tenant, name)
);
CREATE TABLE adapter_history (
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  seq BIGINT NOT NULL,
  digest TEXT NOT NULL,
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
