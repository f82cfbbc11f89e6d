-- Conversations. A thread's row is never touched by a call: no hot row. A message is inserted once and never changed.

DO $$ BEGIN
  CREATE TYPE message_status AS ENUM ('complete', 'incomplete');
EXCEPTION WHEN duplicate_object THEN NULL; END $$;

CREATE TABLE IF NOT EXISTS threads (
  org_id      text NOT NULL,
  thread_id   text NOT NULL,
  user_id     text NOT NULL,
  title       text NOT NULL DEFAULT '',
  description text NOT NULL DEFAULT '',
  visibility  text NOT NULL DEFAULT 'org' CHECK (visibility IN ('org', 'private')),
  canon       integer NOT NULL,         -- the version of the canonical form its chain is made with
  created_at  timestamptz NOT NULL DEFAULT now(),
  deleted_at  timestamptz,
  PRIMARY KEY (org_id, thread_id)
);
CREATE INDEX IF NOT EXISTS threads_newest ON threads (org_id, created_at DESC, thread_id DESC);

-- No foreign key to threads or calls: it would lock the parent's row once per message and let a stray lock stall the
-- writer. Equal parents follow from the composite keys.
CREATE TABLE IF NOT EXISTS messages (
  org_id     text NOT NULL,
  thread_id  text NOT NULL,
  seq        integer NOT NULL,          -- from 0, gapless
  call_id    text NOT NULL,
  role       text NOT NULL,
  raw        text NOT NULL,             -- the message's JSON as sent or received
  own        bytea NOT NULL,            -- hash of its canonical form
  chain      bytea NOT NULL,            -- hash over all chained messages up to it
  status     message_status NOT NULL,
  reason     text,
  meta       json,                      -- answers: threads.Provenance
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (org_id, thread_id, seq)
);

GRANT SELECT, INSERT, UPDATE ON threads TO threadhub_app;
GRANT SELECT, INSERT ON messages TO threadhub_app;

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['threads', 'messages'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('DROP POLICY IF EXISTS own_org ON %I', t);
    EXECUTE format('CREATE POLICY own_org ON %I TO threadhub_app
      USING (org_id = ANY ((SELECT string_to_array(nullif(current_setting(''app.orgs'', true), ''''), '',''))::text[]))
      WITH CHECK (org_id = ANY ((SELECT string_to_array(nullif(current_setting(''app.orgs'', true), ''''), '',''))::text[]))', t);
  END LOOP;
END $$;
