// Package fidelity proves, at the provider's socket, that the gateway sends what the client wrote and gives back what the
// provider said, byte for byte, but for the few members that are the gateway's to change.
package fidelity

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"threadhub/test/rig"
)

func TestFidelity(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(rig.Stores)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rig.Stores[name](t))
			t.Run("plain calls", func(t *testing.T) { rapid.Check(t, w.plainCall) })
			t.Run("threads of thin clients", func(t *testing.T) { rapid.Check(t, w.thinThread) })
			t.Run("threads of full clients", func(t *testing.T) { rapid.Check(t, w.fullThread) })
		})
	}
}

// plainCall is a call without a thread.
func (w *world) plainCall(t *rapid.T) {
	to := rapid.SampledFrom(targets).Draw(t, "target")
	var messages []string
	for i := range rapid.IntRange(0, 3).Draw(t, "before") {
		messages = append(messages, message(t, pick(t, "system", "developer", "user", "assistant"), fmt.Sprint("m", i), to.provider == "openai"))
	}
	if chance(t, 15) {
		messages = append(messages, toolTurn(t)...)
	}
	left := ""
	if chance(t, 30) {
		left = leftover(t)
		messages = append(messages, `{"role":"assistant","content":`+quoted+str(t)[1:]+left+space(t)+"}")
	}
	messages = append(messages, message(t, "user", "last"+scripted(t), to.provider == "openai"))
	r := newRequest(t, to, messages)
	x := w.call(t, r.text())
	edited := &r.body
	if to.provider == "openai" { // which refuses it
		edited = edited.with("messages", strings.Replace(edited.find("messages").value, left, "", 1))
	}
	r.mustBecome(t, string(x.seen.Body), edited, "")
	r.mustBringBack(t, x)
}

// quoted begins a string that says something.
const quoted = `"said, `

// leftover is a member of an answer that only another provider gives, with the comma before it.
func leftover(t *rapid.T) string {
	name := pick(t, `"reasoning_content"`, `"reasoning"`, `"reasoning_details"`, `"images"`, `"extra_content"`, `"re\u0061soning"`)
	return space(t) + "," + space(t) + name + space(t) + ":" + space(t) + pick(t, "null", "[]", str(t), `[{"index" : 0}]`, `{"google":{"n":1.0}}`)
}

// scripted makes the provider answer with what is hard to pass on.
func scripted(t *rapid.T) string {
	return pick(t, "", "", "", " [[sim fault=nul]]", " [[sim fault=lone_surrogate]]", " [[sim fault=split_rune flush=1]]", " [[sim chunks=1]]", " [[sim size=3000]]")
}

// mustBecome checks what the provider got of a request whose edits but model, stream options and history have been made.
func (r *request) mustBecome(t *rapid.T, got string, edited *body, history string) {
	if r.sent != "" {
		edited = edited.with("model", r.sent)
	}
	if history != "" {
		got = cut(t, got, history+",")
	}
	const ask = `"stream_options":{"include_usage":true}`
	if r.stream && r.options == "" {
		if strings.Contains(got, ask+",") {
			got = cut(t, got, ask+",")
		} else {
			got = cut(t, got, ","+ask)
		}
	}
	if r.stream && r.options != "" && !r.asked {
		const hole = "\x00"
		before, after, _ := strings.Cut(edited.with("stream_options", hole).text(), hole)
		if !strings.HasPrefix(got, before) || !strings.HasSuffix(got, after) || len(got) < len(before)+len(after) {
			t.Fatalf("the provider got\n%s\nnot, around its stream options,\n%s…%s", got, before, after)
		}
		r.mustAsk(t, got[len(before):len(got)-len(after)])
		return
	}
	if want := edited.text(); got != want {
		t.Fatalf("the provider got\n%q\nwhich must be\n%q", got, want)
	}
}

// mustAsk checks the stream options the provider got: the client's own, and the usage asked for.
func (r *request) mustAsk(t *rapid.T, got string) {
	want, have := map[string]any{}, map[string]any{}
	if err := json.Unmarshal([]byte(r.options), &want); err != nil {
		t.Fatal(err)
	}
	if want == nil { // null
		want = map[string]any{}
	}
	want["include_usage"] = true
	if err := json.Unmarshal([]byte(got), &have); err != nil {
		t.Fatalf("stream options %q: %v", got, err)
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Fatalf("stream options (-want +got):\n%s", diff)
	}
}

// cut takes away what the gateway put in, which must be there.
func cut(t *rapid.T, got, inserted string) string {
	before, after, found := strings.Cut(got, inserted)
	if !found {
		t.Fatalf("the provider got\n%q\nwithout\n%q", got, inserted)
	}
	return before + after
}

// cost is what the gateway adds to the usage that a client asked for.
var cost = regexp.MustCompile(`,"cost_usd":(?:null|"[0-9.]+"),"cost_status":"[a-z]+"`)

// mustBringBack checks what the client got of what the provider said.
func (r *request) mustBringBack(t *rapid.T, x exchange) {
	if !r.stream {
		if got, want := string(x.Body), x.seen.Events[0]; got != want {
			t.Fatalf("the client got\n%q\nof\n%q", got, want)
		}
		return
	}
	got := payloads(t, x.Body)
	var want []string
	usages := 0
	for _, payload := range x.seen.Events {
		if !strings.Contains(payload, `"usage":{`) {
			want = append(want, payload)
			continue
		}
		usages++
		if r.asked {
			want = append(want, payload)
		}
	}
	if usages != 1 {
		t.Fatalf("the provider was not asked for its usage, or this test does not know it: %q", x.seen.Events)
	}
	for i := range got {
		if strings.Contains(got[i], `"usage":{`) {
			if !cost.MatchString(got[i]) {
				t.Errorf("the usage does not say what it cost: %s", got[i])
			}
			got[i] = cost.ReplaceAllString(got[i], "")
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("the payloads the provider sent (-) and the client got (+):\n%s", diff)
	}
}
