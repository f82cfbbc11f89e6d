-- Without their classes lines would not add up any more: tokens go back to where they would have been counted.
UPDATE ledger SET
  input_tokens = input_tokens + audio_input_tokens + tool_input_tokens,
  output_tokens = output_tokens + audio_output_tokens + image_output_tokens;
ALTER TABLE ledger DROP COLUMN vendor_pico;
ALTER TABLE ledger DROP COLUMN searches;
ALTER TABLE ledger DROP COLUMN image_output_tokens;
ALTER TABLE ledger DROP COLUMN audio_output_tokens;
ALTER TABLE ledger DROP COLUMN tool_input_tokens;
ALTER TABLE ledger DROP COLUMN audio_input_tokens;

PRAGMA user_version = 8; -- see 0005
