package gateway

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// In a thread it is known which family of models signed what a client sends back: another one is not sent it.
func TestAThreadKnowsWhoSealed(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		said := `{"role":"user","content":"hi"}`
		for _, step := range []struct {
			model string
			sent  bool // what the first model sealed
		}{{"google/gemini-3.8-flash", false}, {"google/gemini-3.8-flash", true}, {"google/gemini-4-argon", false}} {
			body := fmt.Sprintf(`{"model":"openrouter/%s","messages":[%s],"reasoning":{"effort":"low"}}`, step.model, said)
			r := h.do("POST", "/v1/chat/completions", body, "X-Thread-Id", "sealed").want(t, 200)
			sent := gjson.GetBytes(h.attempts()[len(h.attempts())-1].Body, "messages").Raw
			if strings.Contains(sent, `"reasoning_details"`) != step.sent {
				t.Errorf("%s was sent %s", step.model, sent)
			}
			dropped := r.header.Get("X-Threadhub-Warning") == "dropped=messages.reasoning_details;reason=other_model"
			if dropped != strings.HasSuffix(step.model, "argon") {
				t.Errorf("%s: the client was warned of %q", step.model, r.header.Get("X-Threadhub-Warning"))
			}
			if !strings.Contains(sent, `"reasoning":`) && said != `{"role":"user","content":"hi"}` {
				t.Errorf("%s was not told what was thought: %s", step.model, sent)
			}
			said += "," + gjson.GetBytes(r.body, "choices.0.message").Raw + `,{"role":"user","content":"go on"}`
		}
	})
}
