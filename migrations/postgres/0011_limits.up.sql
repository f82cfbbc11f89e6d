-- Limits on what an org, a user or an API key may ask for, of all models or of one.

CREATE TABLE IF NOT EXISTS limits (
  org_id              text NOT NULL,
  scope               text NOT NULL,            -- org | user | key
  scope_id            text NOT NULL,            -- of the org, user or key
  model               text NOT NULL DEFAULT '', -- '': all of them together
  requests_per_minute bigint,                   -- null: no limit
  tokens_per_minute   bigint,
  concurrent_streams  bigint,
  created_at          timestamptz NOT NULL DEFAULT now(),
  updated_at          timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (org_id, scope, scope_id, model),
  FOREIGN KEY (org_id) REFERENCES orgs
);

GRANT SELECT, INSERT, UPDATE, DELETE ON limits TO threadhub_app;

ALTER TABLE limits ENABLE ROW LEVEL SECURITY;
ALTER TABLE limits FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS own_org ON limits;
CREATE POLICY own_org ON limits TO threadhub_app
  USING (org_id = ANY ((SELECT string_to_array(nullif(current_setting('app.orgs', true), ''), ','))::text[]))
  WITH CHECK (org_id = ANY ((SELECT string_to_array(nullif(current_setting('app.orgs', true), ''), ','))::text[]));
