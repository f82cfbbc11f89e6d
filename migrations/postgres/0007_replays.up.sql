-- What clients were given, for whoever repeats a request under the same Idempotency-Key.

CREATE TABLE IF NOT EXISTS replays (
  org_id     text NOT NULL,
  call_id    text NOT NULL,
  head       text NOT NULL,             -- of the answer: pairs of name and value, as JSON
  body       bytea NOT NULL,            -- as it was sent; of a stream all its events
  stream     boolean NOT NULL,
  expires_at timestamptz NOT NULL,      -- with the call's claim
  PRIMARY KEY (org_id, call_id)
);
CREATE INDEX IF NOT EXISTS replays_expire ON replays (org_id, expires_at);
CREATE INDEX IF NOT EXISTS calls_claim_until ON calls (org_id, claim_until) WHERE claim IS NOT NULL;

GRANT SELECT, INSERT, DELETE ON replays TO threadhub_app;

ALTER TABLE replays ENABLE ROW LEVEL SECURITY;
ALTER TABLE replays FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS own_org ON replays;
CREATE POLICY own_org ON replays TO threadhub_app
  USING (org_id = ANY ((SELECT string_to_array(nullif(current_setting('app.orgs', true), ''), ','))::text[]))
  WITH CHECK (org_id = ANY ((SELECT string_to_array(nullif(current_setting('app.orgs', true), ''), ','))::text[]));
