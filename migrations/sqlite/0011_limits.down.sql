DROP TABLE IF EXISTS limits;

PRAGMA user_version = 10; -- see 0005
