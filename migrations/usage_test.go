package migrations_test

import (
	"slices"
	"testing"
)

// A ledger line adds up to the same without the classes that a later schema has, down to the token.
func TestUsageClassesGoBack(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		up(t, url)
		const insert = `INSERT INTO ledger (org_id, call_id, n, kind, key_id, user_id, provider, model, cost_pico, status, price_version,
			input_tokens, cached_tokens, audio_input_tokens, tool_input_tokens, output_tokens, reasoning_tokens, audio_output_tokens, image_output_tokens, searches)
			VALUES ('org_a', 'req_1', 0, 'use', 'k', 'u', 'p', 'm', 7, 'computed', 'v', 1, 2, 3, 4, 5, 6, 7, 8, 9)`
		execAll(t, url, insert)
		for status(t, url).Version > 7 {
			down(t, url, 1)
		}
		got := rows(t, open(t, url), `SELECT input_tokens, cached_tokens, output_tokens, reasoning_tokens, cost_pico FROM ledger`)
		if len(got) != 1 || !slices.Equal(got[0], []string{"8", "2", "20", "6", "7"}) {
			t.Errorf("the line has become %v", got)
		}
		up(t, url)
	})
}
