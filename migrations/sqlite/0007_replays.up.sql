-- What clients were given, for whoever repeats a request under the same Idempotency-Key.

CREATE TABLE IF NOT EXISTS replays (
  org_id     text NOT NULL,
  call_id    text NOT NULL,
  head       text NOT NULL,    -- of the answer: pairs of name and value, as JSON
  body       blob NOT NULL,    -- as it was sent; of a stream all its events
  stream     integer NOT NULL,
  expires_at integer NOT NULL, -- with the call's claim
  PRIMARY KEY (org_id, call_id)
) STRICT;
CREATE INDEX IF NOT EXISTS replays_expire ON replays (org_id, expires_at);
CREATE INDEX IF NOT EXISTS calls_claim_until ON calls (org_id, claim_until) WHERE claim IS NOT NULL;

PRAGMA user_version = 7; -- see 0005
