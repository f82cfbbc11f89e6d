package gateway

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"threadhub/openai"
)

var thoughtSignature = regexp.MustCompile(`"thoughtSignature":\s*"([^"]+)"`)

// A client that sends the whole conversation, but without what it does not know, as OpenAI's SDKs do: what Gemini signed
// its answers with comes back to it out of the thread, and to nobody else. What the client itself sends stands.
func TestSignaturesComeBackForFullClients(t *testing.T) {
	t.Parallel()
	const (
		tools   = `,"tools":[{"type":"function","function":{"name":"get_weather","parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}]`
		flash   = "gemini/gemini-3.8-flash"
		asked   = `{"role":"user","content":"Please call the tool."}`
		thanked = `{"role":"user","content":"Thank you."}`
	)
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		h.do("PUT", h.providers("gemini"), `{"api_key":"sk-test-key-0123456789"}`).want(t, 200)
		ask := func(thread, model, more string, messages ...string) (answer, sent string, signed []string) {
			t.Helper()
			body := fmt.Sprintf(`{"model":%q,"messages":[%s]%s}`, model, strings.Join(messages, ","), more)
			r := h.do("POST", "/v1/chat/completions", body, "X-Thread-Id", thread).want(t, 200)
			log := h.attempts()
			a := log[len(log)-1]
			for _, m := range thoughtSignature.FindAllStringSubmatch(strings.Join(a.Events, ""), -1) {
				signed = append(signed, m[1])
			}
			return gjson.GetBytes(r.body, "choices.0.message").Raw, string(a.Body), signed
		}
		has := func(body string, signatures []string) bool {
			for _, s := range signatures {
				if !strings.Contains(body, s) {
					return false
				}
			}
			return true
		}
		// plain is a message as an SDK sends it back.
		plain := func(message string) string {
			told, _ := openai.History([]openai.Told{{Raw: []byte(message), Role: "assistant", Kin: openai.Foreign}}, nil, nil)
			return string(told[0]) // results of its calls may follow
		}

		answer := func(call string) string {
			return fmt.Sprintf(`{"role":"tool","tool_call_id":%q,"content":"It is mild."}`, gjson.Get(call, "tool_calls.0.id").Str)
		}

		call, _, callSigned := ask("signed", flash, tools, asked)
		if len(callSigned) != 1 || !has(call, callSigned) || has(plain(call), callSigned) {
			t.Fatalf("the call was signed with %q: %s", callSigned, call)
		}
		text, sent, textSigned := ask("signed", flash, tools, asked, plain(call), answer(call))
		if len(textSigned) != 1 || !has(sent, callSigned) {
			t.Errorf("gemini signed the call with %q and was sent %s", callSigned, sent)
		}
		if _, sent, _ := ask("signed", flash, tools, asked, plain(call), answer(call), plain(text), thanked); !has(sent, append(callSigned, textSigned...)) {
			t.Errorf("gemini signed with %q and %q, and was sent %s", callSigned, textSigned, sent)
		}

		const foreign = "EpACZm9yZWlnbg=="
		call, _, callSigned = ask("foreign", flash, tools, asked)
		own := strings.Replace(call, callSigned[0], foreign, 1)
		if _, sent, _ := ask("foreign", flash, tools, asked, own, answer(call)); !has(sent, []string{foreign}) || has(sent, callSigned) {
			t.Errorf("the client sent the signature %q, and gemini was sent %s", foreign, sent)
		}

		for _, model := range []string{"gemini/gemini-4-argon", "openai/gpt-4.1-mini", "openrouter/anthropic/claude-haiku-5.5"} {
			thread := strings.ReplaceAll(model, "/", ".")
			call, _, callSigned := ask(thread, flash, tools, asked)
			if _, sent, _ := ask(thread, model, tools, asked, plain(call), answer(call)); has(sent, callSigned) {
				t.Errorf("%s was sent what another family signed with: %s", model, sent)
			}
		}

		// A provider of the OpenAI dialect gets the client's own bytes, whatever the thread has.
		const router = "openrouter/anthropic/claude-haiku-5.5"
		said := `{"role":"assistant","content":"Hello.","extra_content":{"google":{"thought_signature":"` + foreign + `"}}}`
		more, sent, _ := ask("bytes", router, "", asked, said, thanked)
		if !has(sent, []string{foreign}) {
			t.Errorf("the client sent %s, the provider got %s", said, sent)
		}
		if _, sent, _ := ask("bytes", router, "", asked, plain(said), thanked, more, thanked); has(sent, []string{foreign}) {
			t.Errorf("the client sent %s, the provider got %s", plain(said), sent)
		}
	})
}
