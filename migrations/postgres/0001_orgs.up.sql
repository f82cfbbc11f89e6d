-- Who may call: orgs, their people, their keys. Roles threadhub_app and threadhub_settler exist before any migration
-- runs (migrations.Roles): they belong to the cluster, not to this database.

DO $$ BEGIN
  CREATE TYPE user_role AS ENUM ('admin', 'member', 'viewer');
EXCEPTION WHEN duplicate_object THEN NULL; END $$;

CREATE TABLE IF NOT EXISTS orgs (
  org_id      text PRIMARY KEY CHECK (org_id ~ '^[a-z0-9_]+$'),
  name        text NOT NULL,
  tier        text NOT NULL,
  seats       integer NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT now(),
  disabled_at timestamptz
);

-- The org's data keys, each wrapped by the key-encryption key kek_id names.
CREATE TABLE IF NOT EXISTS org_keys (
  org_id     text NOT NULL,
  version    integer NOT NULL,
  kek_id     text NOT NULL,
  wrapped    bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (org_id, version),
  FOREIGN KEY (org_id) REFERENCES orgs
);

CREATE TABLE IF NOT EXISTS teams (
  org_id     text NOT NULL,
  team_id    text NOT NULL,
  name       text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (org_id, team_id),
  FOREIGN KEY (org_id) REFERENCES orgs
);

CREATE TABLE IF NOT EXISTS users (
  org_id      text NOT NULL,
  user_id     text NOT NULL,
  team_id     text,
  email       text NOT NULL,
  name        text NOT NULL DEFAULT '',
  role        user_role NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT now(),
  disabled_at timestamptz,
  PRIMARY KEY (org_id, user_id),
  UNIQUE (org_id, email),
  FOREIGN KEY (org_id) REFERENCES orgs,
  FOREIGN KEY (org_id, team_id) REFERENCES teams
);

CREATE TABLE IF NOT EXISTS api_keys (
  org_id     text NOT NULL,
  key_id     text NOT NULL,
  user_id    text NOT NULL,
  name       text NOT NULL DEFAULT '',
  hash       bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz,
  revoked_at timestamptz,
  PRIMARY KEY (org_id, key_id),
  FOREIGN KEY (org_id, user_id) REFERENCES users
);
-- The one look-up that begins without an org: a caller shows a key. Not unique: that would tell one org of another's.
CREATE INDEX IF NOT EXISTS api_keys_by_key ON api_keys (key_id);

CREATE TABLE IF NOT EXISTS provider_keys (
  org_id       text NOT NULL,
  provider     text NOT NULL,
  version      integer NOT NULL,      -- grows with each put; part of what the seal is bound to
  dek_version  integer NOT NULL,      -- the org_keys row that opens sealed
  sealed       bytea NOT NULL,
  masked       text NOT NULL,
  created_at   timestamptz NOT NULL DEFAULT now(),
  last_used_at timestamptz,
  PRIMARY KEY (org_id, provider),
  FOREIGN KEY (org_id, dek_version) REFERENCES org_keys
);

-- The installation's own secrets (the pepper of key hashes), sealed. No org: nothing of a tenant is in it.
CREATE TABLE IF NOT EXISTS secrets (
  name       text PRIMARY KEY,
  kek_id     text NOT NULL,
  sealed     bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);

-- A server whose user may not migrate sees that the schema is current.
GRANT SELECT ON schema_migrations TO threadhub_app;
GRANT SELECT, INSERT, UPDATE ON orgs, teams, users, api_keys, secrets TO threadhub_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON provider_keys, org_keys TO threadhub_app;

-- Whoever walks the orgs one by one must know which there are, and no more than that.
GRANT SELECT (org_id) ON orgs TO threadhub_settler;

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['orgs', 'org_keys', 'teams', 'users', 'api_keys', 'provider_keys'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('DROP POLICY IF EXISTS own_org ON %I', t);
    -- The cast makes the sub-select an expression: run once per statement, its result usable by the index.
    EXECUTE format('CREATE POLICY own_org ON %I TO threadhub_app
      USING (org_id = ANY ((SELECT string_to_array(nullif(current_setting(''app.orgs'', true), ''''), '',''))::text[]))
      WITH CHECK (org_id = ANY ((SELECT string_to_array(nullif(current_setting(''app.orgs'', true), ''''), '',''))::text[]))', t);
  END LOOP;
END $$;

DROP POLICY IF EXISTS shown_key ON api_keys;
CREATE POLICY shown_key ON api_keys FOR SELECT TO threadhub_app
  USING (key_id = (SELECT nullif(current_setting('app.key_id', true), '')));

DROP POLICY IF EXISTS walk ON orgs;
CREATE POLICY walk ON orgs FOR SELECT TO threadhub_settler USING (true);
