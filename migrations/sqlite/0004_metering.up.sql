-- What it cost. Lines are inserted and read, never changed: a correction is another line.

CREATE TABLE IF NOT EXISTS ledger (
  org_id             text NOT NULL,
  call_id            text NOT NULL,
  n                  integer NOT NULL, -- the attempt
  kind               text NOT NULL,    -- use | late | fix:<id>
  key_id             text NOT NULL,
  user_id            text NOT NULL,
  team_id            text,
  thread_id          text,
  provider           text NOT NULL,
  model              text NOT NULL,
  -- disjoint token classes
  input_tokens       integer NOT NULL DEFAULT 0,
  cached_tokens      integer NOT NULL DEFAULT 0,
  cache_write_tokens integer NOT NULL DEFAULT 0,
  output_tokens      integer NOT NULL DEFAULT 0,
  reasoning_tokens   integer NOT NULL DEFAULT 0,
  cost_pico          integer NOT NULL, -- the charge, in pico-dollars
  computed_pico      integer,          -- by our catalogue; null when unpriced
  provider_pico      integer,          -- as the provider said; null when it said nothing
  status             text NOT NULL CHECK (status IN ('reported', 'computed', 'estimated', 'unpriced')),
  maybe_billed       integer NOT NULL DEFAULT 0 CHECK (maybe_billed IN (0, 1)),
  price_version      text NOT NULL,
  at                 integer NOT NULL DEFAULT (now()),
  PRIMARY KEY (org_id, call_id, n, kind)
) STRICT;
