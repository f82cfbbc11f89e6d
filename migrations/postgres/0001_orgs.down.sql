DROP TABLE IF EXISTS secrets, provider_keys, api_keys, users, teams, org_keys, orgs;
DROP TYPE IF EXISTS user_role;
