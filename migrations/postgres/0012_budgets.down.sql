DROP INDEX IF EXISTS ledger_at;
DROP TABLE IF EXISTS used, budgets;
