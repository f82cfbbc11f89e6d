-- Rules that say which provider answers, and how often each of them did.

CREATE TABLE IF NOT EXISTS router_rules (
  org_id     text NOT NULL PRIMARY KEY,
  version    integer NOT NULL,
  body       text NOT NULL, -- router.Rules as JSON; empty: the default rules
  updated_at integer NOT NULL DEFAULT (now()),
  FOREIGN KEY (org_id) REFERENCES orgs (org_id)
) STRICT;

CREATE TABLE IF NOT EXISTS router_hits (
  org_id text NOT NULL,
  rule   text NOT NULL,
  hits   integer NOT NULL,
  PRIMARY KEY (org_id, rule),
  FOREIGN KEY (org_id) REFERENCES orgs (org_id)
) STRICT;

PRAGMA user_version = 6; -- see 0005
