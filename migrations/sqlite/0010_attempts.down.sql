ALTER TABLE attempts DROP COLUMN key_name;

PRAGMA user_version = 9; -- see 0005
