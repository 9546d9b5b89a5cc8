-- What each server's process counted for a tenant on a day (days of Unix time, UTC), for billing. Rows of removed tenants and revoked keys stay.
CREATE TABLE tenant_days (
  day BIGINT NOT NULL,
  tenant TEXT NOT NULL,
  adapter TEXT NOT NULL,
  key_id TEXT NOT NULL,
  server TEXT NOT NULL,
  requests BIGINT NOT NULL,
  prompt_tokens BIGINT NOT NULL,
  cached_tokens BIGINT NOT NULL,
  completion_tokens BIGINT NOT NULL,
  PRIMARY KEY (day, tenant, adapter, key_id, server)
);
