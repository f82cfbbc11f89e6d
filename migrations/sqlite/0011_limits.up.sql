-- Limits on what an org, a user or an API key may ask for, of all models or of one.

CREATE TABLE IF NOT EXISTS limits (
  org_id              text NOT NULL,
  scope               text NOT NULL,            -- org | user | key
  scope_id            text NOT NULL,            -- of the org, user or key
  model               text NOT NULL DEFAULT '', -- '': all of them together
  requests_per_minute integer,                  -- null: no limit
  tokens_per_minute   integer,
  concurrent_streams  integer,
  created_at          integer NOT NULL DEFAULT (now()),
  updated_at          integer NOT NULL DEFAULT (now()),
  PRIMARY KEY (org_id, scope, scope_id, model),
  FOREIGN KEY (org_id) REFERENCES orgs (org_id)
) STRICT;

PRAGMA user_version = 11; -- see 0005
