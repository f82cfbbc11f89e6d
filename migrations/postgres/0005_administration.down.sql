DROP POLICY IF EXISTS cleared ON messages;
DROP POLICY IF EXISTS cleared ON threads;
DROP POLICY IF EXISTS searched ON threads;
DROP POLICY IF EXISTS searched ON messages;
REVOKE ALL ON messages, threads FROM threadhub_janitor, threadhub_search;
REVOKE ALL (org_id, thread_id, user_id, visibility, created_at, deleted_at) ON threads FROM threadhub_janitor, threadhub_search;
REVOKE ALL (org_id, thread_id) ON messages FROM threadhub_janitor, threadhub_search;
REVOKE DELETE ON teams FROM threadhub_app;

DROP INDEX IF EXISTS threads_deleted, messages_system, messages_own, messages_words, teams_name;
ALTER TABLE messages DROP COLUMN IF EXISTS words;
ALTER TABLE threads DROP COLUMN IF EXISTS words, DROP COLUMN IF EXISTS forked_seq, DROP COLUMN IF EXISTS forked_from, DROP COLUMN IF EXISTS window_policy;
DROP TABLE IF EXISTS audit;

DO $$ BEGIN
  DELETE FROM provider_keys WHERE slot <> 'default';
EXCEPTION WHEN undefined_column THEN NULL; END $$;
ALTER TABLE provider_keys DROP CONSTRAINT IF EXISTS provider_keys_pkey;
ALTER TABLE provider_keys ADD PRIMARY KEY (org_id, provider);
ALTER TABLE provider_keys DROP COLUMN IF EXISTS priority, DROP COLUMN IF EXISTS slot;

-- A key that was shut out, or held to less, must not be good for everything again.
DO $$ BEGIN
  UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE disabled_at IS NOT NULL OR read_only OR models <> '[]' OR providers <> '[]';
EXCEPTION WHEN undefined_column THEN NULL; END $$;
ALTER TABLE api_keys DROP COLUMN IF EXISTS providers, DROP COLUMN IF EXISTS models, DROP COLUMN IF EXISTS read_only, DROP COLUMN IF EXISTS disabled_at;
ALTER TABLE users DROP COLUMN IF EXISTS deleted_at;
ALTER TABLE orgs DROP COLUMN IF EXISTS audit_head, DROP COLUMN IF EXISTS audit_seq, DROP COLUMN IF EXISTS deleted_at, DROP COLUMN IF EXISTS window_policy;
