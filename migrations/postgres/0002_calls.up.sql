-- What became of a request. One row of calls is the call, the turn it holds in its thread, its idempotency claim and
-- its hold on a budget: the unique indexes decide every race in one insert.

DO $$ BEGIN
  CREATE TYPE call_state AS ENUM ('open', 'closed');
EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN
  CREATE TYPE call_outcome AS ENUM ('complete', 'incomplete', 'failed');
EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN
  CREATE TYPE attempt_state AS ENUM ('begun', 'ok', 'failed', 'cut', 'unknown');
EXCEPTION WHEN duplicate_object THEN NULL; END $$;

-- Running processes. A call belongs to one; when its lease is over, its open calls are orphans.
CREATE TABLE IF NOT EXISTS incarnations (
  owner       text PRIMARY KEY,
  started_at  timestamptz NOT NULL DEFAULT now(),
  lease_until timestamptz NOT NULL
);

CREATE TABLE IF NOT EXISTS calls (
  org_id      text NOT NULL,
  call_id     text NOT NULL,
  key_id      text NOT NULL,
  user_id     text NOT NULL,
  team_id     text,
  thread_id   text,
  owner       text NOT NULL,
  epoch       integer NOT NULL DEFAULT 0,
  state       call_state NOT NULL DEFAULT 'open',
  outcome     call_outcome,
  reason      text,                     -- why not complete: upstream_reset, client_closed, gateway_lost, ...
  first_seq   integer NOT NULL DEFAULT 0,
  n_in        integer NOT NULL DEFAULT 0,
  claim       text,
  claim_until timestamptz,
  fp          bigint NOT NULL DEFAULT 0,
  body_hash   bytea,
  hold_pico   bigint NOT NULL DEFAULT 0,
  record_id   text,
  facts       jsonb NOT NULL DEFAULT '{}',   -- what GET /v1/requests tells, as calls.Facts
  opened_at   timestamptz NOT NULL DEFAULT now(),
  closed_at   timestamptz,
  open_xid    xid8 NOT NULL DEFAULT pg_current_xact_id(),
  close_xid   xid8,
  PRIMARY KEY (org_id, call_id)
);
CREATE UNIQUE INDEX IF NOT EXISTS calls_turn ON calls (org_id, thread_id) WHERE state = 'open' AND thread_id IS NOT NULL;
CREATE UNIQUE INDEX IF NOT EXISTS calls_claim ON calls (org_id, key_id, claim) WHERE claim IS NOT NULL;
CREATE INDEX IF NOT EXISTS calls_owner ON calls (owner) WHERE state = 'open';
CREATE INDEX IF NOT EXISTS calls_open ON calls (org_id) WHERE state = 'open';
CREATE INDEX IF NOT EXISTS calls_fp ON calls (org_id, fp);

CREATE TABLE IF NOT EXISTS attempts (
  org_id       text NOT NULL,
  call_id      text NOT NULL,
  n            integer NOT NULL,
  provider     text NOT NULL,
  model        text NOT NULL,
  state        attempt_state NOT NULL DEFAULT 'begun',
  status       integer,                 -- the provider's HTTP status, when it gave one
  code         text,                    -- our code for what went wrong
  upstream_id  text,                    -- the provider's own id of the request
  maybe_billed boolean NOT NULL DEFAULT false,
  first_ms     integer,                 -- from dial to first byte
  total_ms     integer,
  started_at   timestamptz NOT NULL DEFAULT now(),
  ended_at     timestamptz,
  PRIMARY KEY (org_id, call_id, n)
);

GRANT SELECT, INSERT, UPDATE, DELETE ON incarnations TO threadhub_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON calls TO threadhub_app;  -- DELETE: open takes back a call whose thread moved on
GRANT SELECT, INSERT, UPDATE ON attempts TO threadhub_app;
GRANT SELECT (org_id, call_id, owner, epoch, state) ON calls TO threadhub_settler;

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['calls', 'attempts'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('DROP POLICY IF EXISTS own_org ON %I', t);
    EXECUTE format('CREATE POLICY own_org ON %I TO threadhub_app
      USING (org_id = ANY ((SELECT string_to_array(nullif(current_setting(''app.orgs'', true), ''''), '',''))::text[]))
      WITH CHECK (org_id = ANY ((SELECT string_to_array(nullif(current_setting(''app.orgs'', true), ''''), '',''))::text[]))', t);
  END LOOP;
END $$;

DROP POLICY IF EXISTS open_calls ON calls;
CREATE POLICY open_calls ON calls FOR SELECT TO threadhub_settler USING (state = 'open');
