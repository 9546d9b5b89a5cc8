-- Who may do what; keys are kept as hashes only.
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
CREATE TABLE tenant_usage (
  tenant TEXT NOT NULL,
  server TEXT NOT NULL,
  minute BIGINT NOT NULL,
  requests BIGINT NOT NULL,
  prompt_tokens BIGINT NOT NULL,
  output_tokens BIGINT NOT NULL,
  PRIMARY KEY (tenant, server, minute)
);
