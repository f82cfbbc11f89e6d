-- Who may call: orgs, their people, their keys. Times are nanoseconds since 1970; now() is the driver's (internal/db).
-- Tables are STRICT: a value of the wrong type fails here as it does in Postgres, and is not kept as something else.

CREATE TABLE IF NOT EXISTS orgs (
  org_id      text NOT NULL PRIMARY KEY CHECK (org_id <> '' AND org_id NOT GLOB '*[^a-z0-9_]*'),
  name        text NOT NULL,
  tier        text NOT NULL,
  seats       integer NOT NULL,
  created_at  integer NOT NULL DEFAULT (now()),
  disabled_at integer
) STRICT;

-- The org's data keys, each wrapped by the key-encryption key kek_id names.
CREATE TABLE IF NOT EXISTS org_keys (
  org_id     text NOT NULL,
  version    integer NOT NULL,
  kek_id     text NOT NULL,
  wrapped    blob NOT NULL,
  created_at integer NOT NULL DEFAULT (now()),
  PRIMARY KEY (org_id, version),
  FOREIGN KEY (org_id) REFERENCES orgs (org_id)
) STRICT;

CREATE TABLE IF NOT EXISTS teams (
  org_id     text NOT NULL,
  team_id    text NOT NULL,
  name       text NOT NULL,
  created_at integer NOT NULL DEFAULT (now()),
  PRIMARY KEY (org_id, team_id),
  FOREIGN KEY (org_id) REFERENCES orgs (org_id)
) STRICT;

CREATE TABLE IF NOT EXISTS users (
  org_id      text NOT NULL,
  user_id     text NOT NULL,
  team_id     text,
  email       text NOT NULL,
  name        text NOT NULL DEFAULT '',
  role        text NOT NULL CHECK (role IN ('admin', 'member', 'viewer')),
  created_at  integer NOT NULL DEFAULT (now()),
  disabled_at integer,
  PRIMARY KEY (org_id, user_id),
  UNIQUE (org_id, email),
  FOREIGN KEY (org_id) REFERENCES orgs (org_id),
  FOREIGN KEY (org_id, team_id) REFERENCES teams (org_id, team_id)
) STRICT;

CREATE TABLE IF NOT EXISTS api_keys (
  org_id     text NOT NULL,
  key_id     text NOT NULL,
  user_id    text NOT NULL,
  name       text NOT NULL DEFAULT '',
  hash       blob NOT NULL,
  created_at integer NOT NULL DEFAULT (now()),
  expires_at integer,
  revoked_at integer,
  PRIMARY KEY (org_id, key_id),
  FOREIGN KEY (org_id, user_id) REFERENCES users (org_id, user_id)
) STRICT;
-- The one look-up that begins without an org: a caller shows a key. Not unique: that would tell one org of another's.
CREATE INDEX IF NOT EXISTS api_keys_by_key ON api_keys (key_id);

CREATE TABLE IF NOT EXISTS provider_keys (
  org_id       text NOT NULL,
  provider     text NOT NULL,
  version      integer NOT NULL, -- grows with each put; part of what the seal is bound to
  dek_version  integer NOT NULL, -- the org_keys row that opens sealed
  sealed       blob NOT NULL,
  masked       text NOT NULL,
  created_at   integer NOT NULL DEFAULT (now()),
  last_used_at integer,
  PRIMARY KEY (org_id, provider),
  FOREIGN KEY (org_id, dek_version) REFERENCES org_keys (org_id, version)
) STRICT;

-- The installation's own secrets (the pepper of key hashes), sealed. No org: nothing of a tenant is in it.
CREATE TABLE IF NOT EXISTS secrets (
  name       text NOT NULL PRIMARY KEY,
  kek_id     text NOT NULL,
  sealed     blob NOT NULL,
  created_at integer NOT NULL DEFAULT (now())
) STRICT;
