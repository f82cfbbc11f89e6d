ALTER TABLE api_keys DROP COLUMN IF EXISTS on_unsupported;
