-- What providers price apart, in classes of its own: sound, pictures, what their tools read, searches. The five older
-- classes hold the rest. And what of a cost the vendor behind OpenRouter bills to the org itself.

ALTER TABLE ledger ADD COLUMN IF NOT EXISTS audio_input_tokens bigint NOT NULL DEFAULT 0; -- heard
ALTER TABLE ledger ADD COLUMN IF NOT EXISTS tool_input_tokens bigint NOT NULL DEFAULT 0; -- what the provider's own tools found and the model read
ALTER TABLE ledger ADD COLUMN IF NOT EXISTS audio_output_tokens bigint NOT NULL DEFAULT 0; -- spoken
ALTER TABLE ledger ADD COLUMN IF NOT EXISTS image_output_tokens bigint NOT NULL DEFAULT 0; -- drawn
ALTER TABLE ledger ADD COLUMN IF NOT EXISTS searches bigint NOT NULL DEFAULT 0; -- of the web: no tokens
ALTER TABLE ledger ADD COLUMN IF NOT EXISTS vendor_pico bigint; -- of provider_pico; null when nothing
