-- How much an org, or a part of it, may spend in a period. What a hard budget has spent and holds for calls under way is one
-- row for each of its periods, changed only in the transactions that open and record calls.

CREATE TABLE IF NOT EXISTS budgets (
  org_id     text NOT NULL,
  budget_id  text NOT NULL,
  scope      text NOT NULL,
  scope_id   text NOT NULL,             -- of what: of an org its own id
  period     text NOT NULL,
  limit_pico bigint NOT NULL,
  mode       text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (org_id, budget_id),
  FOREIGN KEY (org_id) REFERENCES orgs,
  CHECK (scope IN ('org', 'team', 'user', 'key', 'thread')),
  CHECK (period IN ('day', 'week', 'month', 'total')),
  CHECK (mode IN ('hard', 'soft')),
  CHECK (limit_pico >= 0)
);
CREATE UNIQUE INDEX IF NOT EXISTS budgets_scope ON budgets (org_id, scope, scope_id, period);

CREATE TABLE IF NOT EXISTS used (
  org_id       text NOT NULL,
  budget_id    text NOT NULL,
  period_start timestamptz NOT NULL,
  used_pico    numeric NOT NULL,        -- lines of calls opened in the period, and the holds of those still open
  PRIMARY KEY (org_id, budget_id, period_start)
);

CREATE INDEX IF NOT EXISTS ledger_at ON ledger (org_id, at); -- what was spent since

GRANT SELECT, INSERT, UPDATE, DELETE ON budgets, used TO threadhub_app;

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['budgets', 'used'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('DROP POLICY IF EXISTS own_org ON %I', t);
    EXECUTE format('CREATE POLICY own_org ON %I TO threadhub_app
      USING (org_id = ANY ((SELECT string_to_array(nullif(current_setting(''app.orgs'', true), ''''), '',''))::text[]))
      WITH CHECK (org_id = ANY ((SELECT string_to_array(nullif(current_setting(''app.orgs'', true), ''''), '',''))::text[]))', t);
  END LOOP;
END $$;
