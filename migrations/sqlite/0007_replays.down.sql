DROP INDEX IF EXISTS calls_claim_until;
DROP TABLE IF EXISTS replays;

PRAGMA user_version = 6; -- see 0005
