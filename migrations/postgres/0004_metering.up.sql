-- What it cost. Lines are inserted and read, never changed: a correction is another line.

DO $$ BEGIN
  CREATE TYPE cost_status AS ENUM ('reported', 'computed', 'estimated', 'unpriced');
EXCEPTION WHEN duplicate_object THEN NULL; END $$;

CREATE TABLE IF NOT EXISTS ledger (
  org_id             text NOT NULL,
  call_id            text NOT NULL,
  n                  integer NOT NULL,   -- the attempt
  kind               text NOT NULL,      -- use | late | fix:<id>
  key_id             text NOT NULL,
  user_id            text NOT NULL,
  team_id            text,
  thread_id          text,
  provider           text NOT NULL,
  model              text NOT NULL,
  -- disjoint token classes
  input_tokens       bigint NOT NULL DEFAULT 0,
  cached_tokens      bigint NOT NULL DEFAULT 0,
  cache_write_tokens bigint NOT NULL DEFAULT 0,
  output_tokens      bigint NOT NULL DEFAULT 0,
  reasoning_tokens   bigint NOT NULL DEFAULT 0,
  cost_pico          bigint NOT NULL,    -- the charge, in pico-dollars
  computed_pico      bigint,             -- by our catalogue; null when unpriced
  provider_pico      bigint,             -- as the provider said; null when it said nothing
  status             cost_status NOT NULL,
  maybe_billed       boolean NOT NULL DEFAULT false,
  price_version      text NOT NULL,
  at                 timestamptz NOT NULL DEFAULT now(),
  xid                xid8 NOT NULL DEFAULT pg_current_xact_id(),
  PRIMARY KEY (org_id, call_id, n, kind)
);

GRANT SELECT, INSERT ON ledger TO threadhub_app;

ALTER TABLE ledger ENABLE ROW LEVEL SECURITY;
ALTER TABLE ledger FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS own_org ON ledger;
CREATE POLICY own_org ON ledger TO threadhub_app
  USING (org_id = ANY ((SELECT string_to_array(nullif(current_setting('app.orgs', true), ''), ','))::text[]))
  WITH CHECK (org_id = ANY ((SELECT string_to_array(nullif(current_setting('app.orgs', true), ''), ','))::text[]));
