DROP TABLE message_words;
DROP INDEX threads_deleted;
DROP INDEX messages_system;
DROP INDEX messages_own;
DROP INDEX messages_words;
ALTER TABLE messages DROP COLUMN words;
ALTER TABLE threads DROP COLUMN words;
ALTER TABLE threads DROP COLUMN forked_seq;
ALTER TABLE threads DROP COLUMN forked_from;
ALTER TABLE threads DROP COLUMN window_policy;
DROP TABLE audit;

CREATE TABLE provider_keys_old (
  org_id       text NOT NULL,
  provider     text NOT NULL,
  version      integer NOT NULL, -- grows with each put; part of what the seal is bound to
  dek_version  integer NOT NULL, -- the org_keys row that opens sealed
  sealed       blob NOT NULL,
  masked       text NOT NULL,
  created_at   integer NOT NULL DEFAULT (now()),
  last_used_at integer,
  PRIMARY KEY (org_id, provider),
  FOREIGN KEY (org_id, dek_version) REFERENCES org_keys (org_id, version)
) STRICT;
INSERT INTO provider_keys_old SELECT org_id, provider, version, dek_version, sealed, masked, created_at, last_used_at
  FROM provider_keys WHERE slot = 'default';
DROP TABLE provider_keys;
ALTER TABLE provider_keys_old RENAME TO provider_keys;

-- A key that was shut out, or held to less, must not be good for everything again.
UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE disabled_at IS NOT NULL OR read_only OR models <> '[]' OR providers <> '[]';
ALTER TABLE api_keys DROP COLUMN providers;
ALTER TABLE api_keys DROP COLUMN models;
ALTER TABLE api_keys DROP COLUMN read_only;
ALTER TABLE api_keys DROP COLUMN disabled_at;
DROP INDEX teams_name;
ALTER TABLE users DROP COLUMN deleted_at;
ALTER TABLE orgs DROP COLUMN audit_head;
ALTER TABLE orgs DROP COLUMN audit_seq;
ALTER TABLE orgs DROP COLUMN deleted_at;
ALTER TABLE orgs DROP COLUMN window_policy;

PRAGMA user_version = 4; -- says, within this transaction, that the file has run: it cannot run twice
