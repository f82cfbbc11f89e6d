-- How much an org, or a part of it, may spend in a period. What a hard budget has spent and holds for calls under way is one
-- row for each of its periods, changed only in the transactions that open and record calls.

CREATE TABLE IF NOT EXISTS budgets (
  org_id     text NOT NULL,
  budget_id  text NOT NULL,
  scope      text NOT NULL,
  scope_id   text NOT NULL,    -- of what: of an org its own id
  period     text NOT NULL,
  limit_pico integer NOT NULL,
  mode       text NOT NULL,
  created_at integer NOT NULL DEFAULT (now()),
  updated_at integer NOT NULL DEFAULT (now()),
  PRIMARY KEY (org_id, budget_id),
  FOREIGN KEY (org_id) REFERENCES orgs (org_id),
  CHECK (scope IN ('org', 'team', 'user', 'key', 'thread')),
  CHECK (period IN ('day', 'week', 'month', 'total')),
  CHECK (mode IN ('hard', 'soft')),
  CHECK (limit_pico >= 0)
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS budgets_scope ON budgets (org_id, scope, scope_id, period);

CREATE TABLE IF NOT EXISTS used (
  org_id       text NOT NULL,
  budget_id    text NOT NULL,
  period_start integer NOT NULL,
  used_pico    text NOT NULL, -- a whole number, which an integer could be too small for
  PRIMARY KEY (org_id, budget_id, period_start)
) STRICT;

CREATE INDEX IF NOT EXISTS ledger_at ON ledger (org_id, at); -- what was spent since

PRAGMA user_version = 12; -- see 0005
