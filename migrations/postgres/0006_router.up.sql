-- Rules that say which provider answers, and how often each of them did.

CREATE TABLE IF NOT EXISTS router_rules (
  org_id     text PRIMARY KEY,
  version    integer NOT NULL,
  body       text NOT NULL,             -- router.Rules as JSON; empty: the default rules
  updated_at timestamptz NOT NULL DEFAULT now(),
  FOREIGN KEY (org_id) REFERENCES orgs
);

CREATE TABLE IF NOT EXISTS router_hits (
  org_id text NOT NULL,
  rule   text NOT NULL,
  hits   bigint NOT NULL,
  PRIMARY KEY (org_id, rule),
  FOREIGN KEY (org_id) REFERENCES orgs
);

GRANT SELECT, INSERT, UPDATE ON router_rules TO threadhub_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON router_hits TO threadhub_app;

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['router_rules', 'router_hits'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('DROP POLICY IF EXISTS own_org ON %I', t);
    EXECUTE format('CREATE POLICY own_org ON %I TO threadhub_app
      USING (org_id = ANY ((SELECT string_to_array(nullif(current_setting(''app.orgs'', true), ''''), '',''))::text[]))
      WITH CHECK (org_id = ANY ((SELECT string_to_array(nullif(current_setting(''app.orgs'', true), ''''), '',''))::text[]))', t);
  END LOOP;
END $$;
