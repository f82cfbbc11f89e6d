DROP TABLE IF EXISTS router_hits, router_rules;
