-- Without their classes lines would not add up any more: tokens go back to where they would have been counted.
ALTER TABLE ledger NO FORCE ROW LEVEL SECURITY; -- whose owner else sees no line
DO $$ BEGIN
  UPDATE ledger SET
    input_tokens = input_tokens + audio_input_tokens + tool_input_tokens, audio_input_tokens = 0, tool_input_tokens = 0,
    output_tokens = output_tokens + audio_output_tokens + image_output_tokens, audio_output_tokens = 0, image_output_tokens = 0
    WHERE audio_input_tokens <> 0 OR tool_input_tokens <> 0 OR audio_output_tokens <> 0 OR image_output_tokens <> 0;
EXCEPTION WHEN undefined_column THEN NULL; END $$;
ALTER TABLE ledger FORCE ROW LEVEL SECURITY;
ALTER TABLE ledger DROP COLUMN IF EXISTS vendor_pico, DROP COLUMN IF EXISTS searches, DROP COLUMN IF EXISTS image_output_tokens,
  DROP COLUMN IF EXISTS audio_output_tokens, DROP COLUMN IF EXISTS tool_input_tokens, DROP COLUMN IF EXISTS audio_input_tokens;
