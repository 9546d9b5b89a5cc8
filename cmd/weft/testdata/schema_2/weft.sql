BEGIN TRANSACTION;
CREATE TABLE adapter_changes (
  id BIGINT NOT NULL PRIMARY KEY,
  n BIGINT NOT NULL
);
INSERT INTO "adapter_changes" VALUES(1,5);
CREATE TABLE adapter_claims (
  id TEXT NOT NULL,
  blob TEXT NOT NULL,
  at_ns BIGINT NOT NULL,
  PRIMARY KEY (id, blob)
);
CREATE TABLE adapter_files (
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  digest TEXT NOT NULL,
  file TEXT NOT NULL,
  blob TEXT NOT NULL,
  bytes BIGINT NOT NULL,
  PRIMARY KEY (tenant, name, digest, file)
);
INSERT INTO "adapter_files" VALUES('acme','support','95aeae1526f9dfe7464f422009e00392407de0b930bfa163de306b3ae11b9a2d','adapter_config.json','8616b827ae918811e1abfe0d955f9ef75efa62506891d033e6a076403490db76',1035);
INSERT INTO "adapter_files" VALUES('acme','support','95aeae1526f9dfe7464f422009e00392407de0b930bfa163de306b3ae11b9a2d','adapter_model.safetensors','c16f421e778b6da2fcda3d81cfd13f8117d3aee2516157631be19d2a75f89520',3824);
INSERT INTO "adapter_files" VALUES('acme','support','b64158c00106a27ce9a70ea57541d6e44fd5cb2e0d7366eed120a789735f6dab','adapter_config.json','8616b827ae918811e1abfe0d955f9ef75efa62506891d033e6a076403490db76',1035);
INSERT INTO "adapter_files" VALUES('acme','support','b64158c00106a27ce9a70ea57541d6e44fd5cb2e0d7366eed120a789735f6dab','adapter_model.safetensors','a0e5d24ddc7e735c332f83629e870adfd12a282d4bc27b6ca11c26eafd778152',3824);
INSERT INTO "adapter_files" VALUES('globex','x','95aeae1526f9dfe7464f422009e00392407de0b930bfa163de306b3ae11b9a2d','adapter_config.json','8616b827ae918811e1abfe0d955f9ef75efa62506891d033e6a076403490db76',1035);
INSERT INTO "adapter_files" VALUES('globex','x','95aeae1526f9dfe7464f422009e00392407de0b930bfa163de306b3ae11b9a2d','adapter_model.safetensors','c16f421e778b6da2fcda3d81cfd13f8117d3aee2516157631be19d2a75f89520',3824);
CREATE TABLE adapter_history (
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  seq BIGINT NOT NULL,
  digest TEXT NOT NULL,
  back BIGINT NOT NULL,
  at_ns BIGINT NOT NULL,
  PRIMARY KEY (tenant, name, seq)
);
INSERT INTO "adapter_history" VALUES('acme','support',1,'95aeae1526f9dfe7464f422009e00392407de0b930bfa163de306b3ae11b9a2d',0,1795995479501100751);
INSERT INTO "adapter_history" VALUES('acme','support',2,'b64158c00106a27ce9a70ea57541d6e44fd5cb2e0d7366eed120a789735f6dab',1,1795995480088756681);
INSERT INTO "adapter_history" VALUES('globex','x',1,'95aeae1526f9dfe7464f422009e00392407de0b930bfa163de306b3ae11b9a2d',0,1795995480647249006);
INSERT INTO "adapter_history" VALUES('acme','support',3,'95aeae1526f9dfe7464f422009e00392407de0b930bfa163de306b3ae11b9a2d',0,1795995480928873974);
CREATE TABLE adapter_names (
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  digest TEXT NOT NULL,
  seq BIGINT NOT NULL,
  pinned BIGINT NOT NULL,
  PRIMARY KEY (tenant, name)
);
INSERT INTO "adapter_names" VALUES('acme','support','95aeae1526f9dfe7464f422009e00392407de0b930bfa163de306b3ae11b9a2d',3,1);
INSERT INTO "adapter_names" VALUES('globex','x','95aeae1526f9dfe7464f422009e00392407de0b930bfa163de306b3ae11b9a2d',1,0);
CREATE TABLE adapter_tags (
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  tag TEXT NOT NULL,
  digest TEXT NOT NULL,
  PRIMARY KEY (tenant, name, tag)
);
INSERT INTO "adapter_tags" VALUES('acme','support','v1','95aeae1526f9dfe7464f422009e00392407de0b930bfa163de306b3ae11b9a2d');
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
INSERT INTO "adapter_versions" VALUES('acme','support','95aeae1526f9dfe7464f422009e00392407de0b930bfa163de306b3ae11b9a2d',1795995479501100751,4859,'50ce1b63cfe6b3224d3d3e33cdbfc2b6a5609476cb8a98cde219f2809a159728','{"base":"hf","rank":1,"targets":["q_proj"],"params":640,"bytes":2560}','');
INSERT INTO "adapter_versions" VALUES('acme','support','b64158c00106a27ce9a70ea57541d6e44fd5cb2e0d7366eed120a789735f6dab',1795995480088756681,4859,'fbe858dad867ccdb29511ff7f2e8c11315575d28d74b3020d4db0aa5b45940da','{"base":"hf","rank":1,"targets":["q_proj"],"params":640,"bytes":2560}','');
INSERT INTO "adapter_versions" VALUES('globex','x','95aeae1526f9dfe7464f422009e00392407de0b930bfa163de306b3ae11b9a2d',1795995480647249006,4859,'50ce1b63cfe6b3224d3d3e33cdbfc2b6a5609476cb8a98cde219f2809a159728','{"base":"hf","rank":1,"targets":["q_proj"],"params":640,"bytes":2560}','');
CREATE TABLE schema_version (version BIGINT NOT NULL);
INSERT INTO "schema_version" VALUES(1);
INSERT INTO "schema_version" VALUES(2);
CREATE TABLE tenant_changes (
  id BIGINT NOT NULL PRIMARY KEY,
  counter BIGINT NOT NULL
);
INSERT INTO "tenant_changes" VALUES(1,6);
CREATE TABLE tenant_keys (
  id TEXT NOT NULL PRIMARY KEY,
  tenant TEXT NOT NULL,
  hash TEXT NOT NULL UNIQUE,
  created_ns BIGINT NOT NULL,
  expires_ns BIGINT NOT NULL,
  revoked_ns BIGINT NOT NULL,
  settings TEXT NOT NULL
);
INSERT INTO "tenant_keys" VALUES('key_c3e93bddabcfe050','acme','822c08750eec8369fadf03fd9c3e2df3928f0246eed44170b0e5b4830cda9f88',1795995481400399450,0,0,'{"scopes":["admin","infer"],"hint":"weft-dCmK"}');
INSERT INTO "tenant_keys" VALUES('key_a62481941936ac99','globex','3882068b6e8767c00f3ece6ff434a3c42a07762a5eceefc0827ff0a47e1cacf5',1795995481755841081,0,1795995482487396405,'{"scopes":["infer"],"hint":"weft-ufCi"}');
INSERT INTO "tenant_keys" VALUES('key_954c24dde557eafb','acme','ff10427221b0caf4dfba4983cce084f3e3fd4cef093e19571ad0ee716f5d0fb8',1795995486772800105,0,0,'{"scopes":["infer"],"hint":"weft-rDck"}');
CREATE TABLE tenant_usage (
  tenant TEXT NOT NULL,
  server TEXT NOT NULL,
  minute BIGINT NOT NULL,
  requests BIGINT NOT NULL,
  prompt_tokens BIGINT NOT NULL,
  output_tokens BIGINT NOT NULL,
  PRIMARY KEY (tenant, server, minute)
);
INSERT INTO "tenant_usage" VALUES('acme','472cd458ac2bbc10',29933258,1,2,4);
CREATE TABLE tenants (
  name TEXT NOT NULL PRIMARY KEY,
  created_ns BIGINT NOT NULL,
  settings TEXT NOT NULL
);
INSERT INTO "tenants" VALUES('default',1795995478851089742,'{"weight":1,"default_adapter":"","adapters":["*"],"prefix_cache":"tenant","requests_per_minute":0,"tokens_per_minute":0,"concurrent_requests":0,"max_tokens_per_request":0,"adapter_bytes":0,"adapter_count":0}');
INSERT INTO "tenants" VALUES('acme',1795995478875171539,'{"weight":2.5,"default_adapter":"support","adapters":["*"],"prefix_cache":"tenant","requests_per_minute":0,"tokens_per_minute":1000,"concurrent_requests":0,"max_tokens_per_request":0,"adapter_bytes":0,"adapter_count":0}');
INSERT INTO "tenants" VALUES('globex',1795995479109731861,'{"weight":1,"default_adapter":"","adapters":["*"],"prefix_cache":"tenant","requests_per_minute":7,"tokens_per_minute":0,"concurrent_requests":0,"max_tokens_per_request":0,"adapter_bytes":0,"adapter_count":0}');
CREATE INDEX adapter_files_blob ON adapter_files (blob);
CREATE INDEX adapter_files_digest ON adapter_files (digest);
COMMIT;
