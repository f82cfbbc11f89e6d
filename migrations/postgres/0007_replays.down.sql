DROP INDEX IF EXISTS calls_claim_until;
DROP TABLE IF EXISTS replays;
