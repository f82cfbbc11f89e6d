-- Which of the org's keys an attempt was made with, by its name at the provider; empty: an attempt from before.

ALTER TABLE attempts ADD COLUMN IF NOT EXISTS key_name text NOT NULL DEFAULT '';
