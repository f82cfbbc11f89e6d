-- What an API key wants done with what a provider cannot be told; empty: as the route says.

ALTER TABLE api_keys ADD COLUMN on_unsupported text NOT NULL DEFAULT '' CHECK (on_unsupported IN ('', 'drop', 'reject'));

PRAGMA user_version = 8; -- see 0005
