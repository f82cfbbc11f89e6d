DROP TABLE IF EXISTS router_hits;
DROP TABLE IF EXISTS router_rules;

PRAGMA user_version = 5; -- see 0005
