DROP INDEX IF EXISTS ledger_at;
DROP TABLE IF EXISTS used;
DROP TABLE IF EXISTS budgets;

PRAGMA user_version = 11; -- see 0005
