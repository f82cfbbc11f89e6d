-- What became of a request. One row of calls is the call, the turn it holds in its thread, its idempotency claim and
-- its hold on a budget: the unique indexes decide every race in one insert.

-- Running processes. A call belongs to one; when its lease is over, its open calls are orphans.
CREATE TABLE IF NOT EXISTS incarnations (
  owner       text NOT NULL PRIMARY KEY,
  started_at  integer NOT NULL DEFAULT (now()),
  lease_until integer NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS calls (
  org_id      text NOT NULL,
  call_id     text NOT NULL,
  key_id      text NOT NULL,
  user_id     text NOT NULL,
  team_id     text,
  thread_id   text,
  owner       text NOT NULL,
  epoch       integer NOT NULL DEFAULT 0,
  state       text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'closed')),
  outcome     text CHECK (outcome IN ('complete', 'incomplete', 'failed')),
  reason      text, -- why not complete: upstream_reset, client_closed, gateway_lost, ...
  first_seq   integer NOT NULL DEFAULT 0,
  n_in        integer NOT NULL DEFAULT 0,
  claim       text,
  claim_until integer,
  fp          integer NOT NULL DEFAULT 0,
  body_hash   blob,
  hold_pico   integer NOT NULL DEFAULT 0,
  record_id   text,
  facts       text NOT NULL DEFAULT '{}' CHECK (json_valid(facts)), -- what GET /v1/requests tells, as calls.Facts
  opened_at   integer NOT NULL DEFAULT (now()),
  closed_at   integer,
  PRIMARY KEY (org_id, call_id)
) STRICT;
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
  state        text NOT NULL DEFAULT 'begun' CHECK (state IN ('begun', 'ok', 'failed', 'cut', 'unknown')),
  status       integer, -- the provider's HTTP status, when it gave one
  code         text,    -- our code for what went wrong
  upstream_id  text,    -- the provider's own id of the request
  maybe_billed integer NOT NULL DEFAULT 0 CHECK (maybe_billed IN (0, 1)),
  first_ms     integer, -- from dial to first byte
  total_ms     integer,
  started_at   integer NOT NULL DEFAULT (now()),
  ended_at     integer,
  PRIMARY KEY (org_id, call_id, n)
) STRICT;
