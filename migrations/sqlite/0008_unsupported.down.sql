ALTER TABLE api_keys DROP COLUMN on_unsupported;

PRAGMA user_version = 7; -- see 0005
