-- What admins decide: people and keys that are shut out for a while or for good, what a key may be used for, several keys
-- for one provider, what becomes of a history that does not fit; and the log of all that.

ALTER TABLE orgs ADD COLUMN IF NOT EXISTS window_policy text NOT NULL DEFAULT 'cut' CHECK (window_policy IN ('cut', 'refuse'));
ALTER TABLE orgs ADD COLUMN IF NOT EXISTS deleted_at timestamptz;
-- The head of the org's audit log, kept apart from it so that a line taken off its end is missed.
ALTER TABLE orgs ADD COLUMN IF NOT EXISTS audit_seq bigint NOT NULL DEFAULT 0;
ALTER TABLE orgs ADD COLUMN IF NOT EXISTS audit_head bytea NOT NULL DEFAULT '';

ALTER TABLE users ADD COLUMN IF NOT EXISTS deleted_at timestamptz; -- then its email is no address any more
CREATE UNIQUE INDEX IF NOT EXISTS teams_name ON teams (org_id, name);

ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS disabled_at timestamptz; -- unlike a revoked one it can come back
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS read_only boolean NOT NULL DEFAULT false;
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS models text NOT NULL DEFAULT '[]';    -- JSON list of patterns; empty: all
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS providers text NOT NULL DEFAULT '[]'; -- JSON list; empty: all

ALTER TABLE provider_keys ADD COLUMN IF NOT EXISTS slot text NOT NULL DEFAULT 'default'; -- tells a provider's keys apart
ALTER TABLE provider_keys ADD COLUMN IF NOT EXISTS priority integer NOT NULL DEFAULT 0;  -- the lowest is used first
ALTER TABLE provider_keys DROP CONSTRAINT IF EXISTS provider_keys_pkey;
ALTER TABLE provider_keys ADD PRIMARY KEY (org_id, provider, slot);

-- Every administrative change, in the transaction that makes it. Each line's hash is over the line and the hash before it.
CREATE TABLE IF NOT EXISTS audit (
  org_id  text NOT NULL,
  seq     bigint NOT NULL,              -- from 1, gapless
  at      timestamptz NOT NULL,
  user_id text NOT NULL,                -- who did it; empty: the operator
  key_id  text NOT NULL,
  action  text NOT NULL,                -- key.create, user.update, ...
  target  text NOT NULL,                -- the id of what was changed
  detail  text NOT NULL,                -- JSON: what was changed, without secrets
  hash    bytea NOT NULL,
  PRIMARY KEY (org_id, seq),
  FOREIGN KEY (org_id) REFERENCES orgs
);

ALTER TABLE threads ADD COLUMN IF NOT EXISTS window_policy text CHECK (window_policy IN ('cut', 'refuse')); -- null: as the org
ALTER TABLE threads ADD COLUMN IF NOT EXISTS forked_from text;
ALTER TABLE threads ADD COLUMN IF NOT EXISTS forked_seq integer; -- the last message that was taken over
ALTER TABLE threads ADD COLUMN IF NOT EXISTS words text NOT NULL DEFAULT ''; -- of title and description, for searches
ALTER TABLE messages ADD COLUMN IF NOT EXISTS words tsvector;                -- of its text; made by threads, not by a parser here
CREATE INDEX IF NOT EXISTS messages_words ON messages USING gin (words);
CREATE INDEX IF NOT EXISTS messages_system ON messages (org_id, thread_id, seq) WHERE role = 'system' OR role = 'developer';
CREATE INDEX IF NOT EXISTS messages_own ON messages (org_id, thread_id, own, seq); -- where a client's copy begins
CREATE INDEX IF NOT EXISTS threads_deleted ON threads (org_id, deleted_at) WHERE deleted_at IS NOT NULL;

GRANT SELECT, INSERT ON audit TO threadhub_app;
GRANT DELETE ON teams TO threadhub_app;
ALTER TABLE audit ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS own_org ON audit;
CREATE POLICY own_org ON audit TO threadhub_app
  USING (org_id = ANY ((SELECT string_to_array(nullif(current_setting('app.orgs', true), ''), ','))::text[]))
  WITH CHECK (org_id = ANY ((SELECT string_to_array(nullif(current_setting('app.orgs', true), ''), ','))::text[]));

-- Whoever searches sees, of the org's messages, those that hold the words looked for, and only where they are. The words
-- are part of the policy because an operator that row-level security does not trust with rows it has not cleared (and it
-- trusts none for text search) may use the index only from there.
GRANT SELECT (org_id, thread_id, words) ON messages TO threadhub_search;
GRANT SELECT (org_id, thread_id, user_id, visibility, created_at, deleted_at, words) ON threads TO threadhub_search;
DROP POLICY IF EXISTS searched ON messages;
CREATE POLICY searched ON messages FOR SELECT TO threadhub_search
  USING (org_id = ANY ((SELECT string_to_array(nullif(current_setting('app.orgs', true), ''), ','))::text[])
    AND words @@ (SELECT nullif(current_setting('app.words', true), '')::tsquery));
DROP POLICY IF EXISTS searched ON threads;
CREATE POLICY searched ON threads FOR SELECT TO threadhub_search
  USING (org_id = ANY ((SELECT string_to_array(nullif(current_setting('app.orgs', true), ''), ','))::text[]));

-- Messages are insert-only for the app. Whoever clears away deletes those of deleted threads, and nothing else.
GRANT SELECT (org_id, thread_id, deleted_at), DELETE ON threads TO threadhub_janitor;
GRANT SELECT (org_id, thread_id), DELETE ON messages TO threadhub_janitor;
DROP POLICY IF EXISTS cleared ON threads;
CREATE POLICY cleared ON threads TO threadhub_janitor
  USING (org_id = ANY ((SELECT string_to_array(nullif(current_setting('app.orgs', true), ''), ','))::text[]) AND deleted_at IS NOT NULL);
DROP POLICY IF EXISTS cleared ON messages;
CREATE POLICY cleared ON messages TO threadhub_janitor
  USING (org_id = ANY ((SELECT string_to_array(nullif(current_setting('app.orgs', true), ''), ','))::text[])
    AND EXISTS (SELECT FROM threads t WHERE t.org_id = messages.org_id AND t.thread_id = messages.thread_id));
