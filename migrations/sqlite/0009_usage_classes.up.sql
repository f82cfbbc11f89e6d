-- What providers price apart, in classes of its own: sound, pictures, what their tools read, searches. The five older
-- classes hold the rest. And what of a cost the vendor behind OpenRouter bills to the org itself.

ALTER TABLE ledger ADD COLUMN audio_input_tokens integer NOT NULL DEFAULT 0; -- heard
ALTER TABLE ledger ADD COLUMN tool_input_tokens integer NOT NULL DEFAULT 0; -- what the provider's own tools found and the model read
ALTER TABLE ledger ADD COLUMN audio_output_tokens integer NOT NULL DEFAULT 0; -- spoken
ALTER TABLE ledger ADD COLUMN image_output_tokens integer NOT NULL DEFAULT 0; -- drawn
ALTER TABLE ledger ADD COLUMN searches integer NOT NULL DEFAULT 0; -- of the web: no tokens
ALTER TABLE ledger ADD COLUMN vendor_pico integer; -- of provider_pico; null when nothing

PRAGMA user_version = 9; -- see 0005
