-- What admins decide: people and keys that are shut out for a while or for good, what a key may be used for, several keys
-- for one provider, what becomes of a history that does not fit; and the log of all that.

ALTER TABLE orgs ADD COLUMN window_policy text NOT NULL DEFAULT 'cut' CHECK (window_policy IN ('cut', 'refuse'));
ALTER TABLE orgs ADD COLUMN deleted_at integer;
-- The head of the org's audit log, kept apart from it so that a line taken off its end is missed.
ALTER TABLE orgs ADD COLUMN audit_seq integer NOT NULL DEFAULT 0;
ALTER TABLE orgs ADD COLUMN audit_head blob NOT NULL DEFAULT x'';

ALTER TABLE users ADD COLUMN deleted_at integer; -- then its email is no address any more
CREATE UNIQUE INDEX teams_name ON teams (org_id, name);

ALTER TABLE api_keys ADD COLUMN disabled_at integer; -- unlike a revoked one it can come back
ALTER TABLE api_keys ADD COLUMN read_only integer NOT NULL DEFAULT 0 CHECK (read_only IN (0, 1));
ALTER TABLE api_keys ADD COLUMN models text NOT NULL DEFAULT '[]';    -- JSON list of patterns; empty: all
ALTER TABLE api_keys ADD COLUMN providers text NOT NULL DEFAULT '[]'; -- JSON list; empty: all

CREATE TABLE provider_keys_new (
  org_id       text NOT NULL,
  provider     text NOT NULL,
  version      integer NOT NULL, -- grows with each put; part of what the seal is bound to
  dek_version  integer NOT NULL, -- the org_keys row that opens sealed
  sealed       blob NOT NULL,
  masked       text NOT NULL,
  created_at   integer NOT NULL DEFAULT (now()),
  last_used_at integer,
  slot         text NOT NULL DEFAULT 'default', -- tells a provider's keys apart
  priority     integer NOT NULL DEFAULT 0,      -- the lowest is used first
  PRIMARY KEY (org_id, provider, slot),
  FOREIGN KEY (org_id, dek_version) REFERENCES org_keys (org_id, version)
) STRICT;
INSERT INTO provider_keys_new (org_id, provider, version, dek_version, sealed, masked, created_at, last_used_at)
  SELECT org_id, provider, version, dek_version, sealed, masked, created_at, last_used_at FROM provider_keys;
DROP TABLE provider_keys;
ALTER TABLE provider_keys_new RENAME TO provider_keys;

-- Every administrative change, in the transaction that makes it. Each line's hash is over the line and the hash before it.
CREATE TABLE audit (
  org_id  text NOT NULL,
  seq     integer NOT NULL, -- from 1, gapless
  at      integer NOT NULL,
  user_id text NOT NULL,    -- who did it; empty: the operator
  key_id  text NOT NULL,
  action  text NOT NULL,    -- key.create, user.update, ...
  target  text NOT NULL,    -- the id of what was changed
  detail  text NOT NULL,    -- JSON: what was changed, without secrets
  hash    blob NOT NULL,
  PRIMARY KEY (org_id, seq),
  FOREIGN KEY (org_id) REFERENCES orgs (org_id)
) STRICT;
-- What Postgres does by not granting it.
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END;
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END;

ALTER TABLE threads ADD COLUMN window_policy text CHECK (window_policy IN ('cut', 'refuse')); -- null: as the org
ALTER TABLE threads ADD COLUMN forked_from text;
ALTER TABLE threads ADD COLUMN forked_seq integer; -- the last message that was taken over
ALTER TABLE threads ADD COLUMN words text NOT NULL DEFAULT ''; -- of title and description, for searches
ALTER TABLE messages ADD COLUMN words integer; -- the message_words row that holds the words of its text
CREATE INDEX messages_words ON messages (words);
CREATE INDEX messages_system ON messages (org_id, thread_id, seq) WHERE role = 'system' OR role = 'developer';
CREATE INDEX messages_own ON messages (org_id, thread_id, own, seq); -- where a client's copy begins
CREATE INDEX threads_deleted ON threads (org_id, deleted_at) WHERE deleted_at IS NOT NULL;

-- The index of messages' words: only the index, no text. Words are made by threads; the tokenizer only splits at spaces.
CREATE VIRTUAL TABLE message_words USING fts5 (words, content='', contentless_delete=1, detail=none, tokenize='ascii');

PRAGMA user_version = 5; -- says, within this transaction, that the file has run: it cannot run twice
