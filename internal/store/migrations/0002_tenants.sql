-- Who may do what; keys are kept as hashes only. Rows of revoked keys stay, so that a server that once had keys never opens again.
CREATE TABLE tenants (
  name TEXT NOT NULL PRIMARY KEY,
  created_ns BIGINT NOT NULL,
  settings TEXT NOT NULL
);
CREATE TABLE tenant_keys (
  id TEXT NOT NULL PRIMARY KEY,
  tenant TEXT NOT NULL,
  hash TEXT NOT NULL UNIQUE,
  created_ns BIGINT NOT NULL,
  expires_ns BIGINT NOT NULL,
  revoked_ns BIGINT NOT NULL,
  settings TEXT NOT NULL
);
-- The counter grows with every change of a tenant or a key: servers poll it.
CREATE TABLE tenant_changes (
  id BIGINT NOT NULL PRIMARY KEY,
  counter BIGINT NOT NULL
);
INSERT INTO tenant_changes (id, counter) VALUES (1, 0);
-- What each server has charged to a tenant within a minute of Unix time.
CREATE TABLE tenant_usage (
  tenant TEXT NOT NULL,
  server TEXT NOT NULL,
  minute BIGINT NOT NULL,
  requests BIGINT NOT NULL,
  prompt_tokens BIGINT NOT NULL,
  output_tokens BIGINT NOT NULL,
  PRIMARY KEY (tenant, server, minute)
);
