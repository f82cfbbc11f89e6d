package gateway

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"threadhub/calls"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/metering"
	"threadhub/orgs"
	"threadhub/simulator"
)

// embedders are models that embed, one of each provider, and how the cost of their calls is known.
var embedders = map[string]string{
	"openai/text-embedding-3-small":            "computed",
	"openrouter/openai/text-embedding-3-small": "reported",
	"perplexity/pplx-embed-v1-0.6b":            "reported",
	"gemini/gemini-embedding-2":                "estimated",
	"openai/text-embedding-3-large":            "computed",
	"openrouter/sim-embed":                     "reported",
	"perplexity/pplx-embed-v1-4b":              "reported",
	"gemini/models/gemini-embedding-2":         "estimated", // as Google's lists name it
	"text-embedding-3-small":                   "computed",
	"gemini-embedding-001":                     "estimated",
	"pplx-embed-v1-4b":                         "reported",
	"openrouter/qwen/qwen3-embedding-8b":       "reported",
	"openrouter/google/gemini-embedding-001":   "reported",
	"openai/sim-embed":                         "unpriced",
	"openrouter/openrouter/sim-embed":          "reported",
}

// everyKey gives the org a key at the providers that seed leaves out.
func (h *house) everyKey() {
	h.t.Helper()
	for _, p := range []string{"gemini", "perplexity"} {
		h.do("PUT", h.providers(p), `{"api_key":"sk-test-key-0123456789"}`).want(h.t, 200)
	}
}

func (h *house) embed(model, input, more string, header ...string) heard {
	h.t.Helper()
	return h.do("POST", "/v1/embeddings", fmt.Sprintf(`{"model":%q,"input":%s%s}`, model, input, more), header...)
}

// lines are the ledger's of the call that r answered.
func (h *house) lines(r heard) []metering.Line {
	h.t.Helper()
	lines, err := metering.Lines(h.t.Context(), h.store, h.admin.Org, id.Request(r.header.Get("X-Request-Id")))
	if err != nil {
		h.t.Fatal(err)
	}
	return lines
}

func TestEmbeddingsAreTheProvidersBytes(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		for model, name := range map[string]string{"openai/text-embedding-3-small": "text-embedding-3-small", "openrouter/sim-embed": "sim-embed"} {
			const rest = `", "input" : ["one","tw\u006f"],"dimensions":8 ,"user":"u" }`
			r := h.do("POST", "/v1/embeddings", `{ "model":"`+model+rest).want(t, 200)
			log := h.attempts()
			a := log[len(log)-1]
			if string(r.body) != a.Events[0] {
				t.Errorf("the client got\n%s\nthe provider sent\n%s", r.body, a.Events[0])
			}
			if got, want := string(a.Body), `{ "model":"`+name+rest; got != want || a.Path != "/embeddings" {
				t.Errorf("at %s the provider got %s, want %s", a.Path, got, want)
			}
			if got := r.header.Get("X-Upstream-" + map[string]string{"openai": "X-Request-Id", "openrouter": "X-Generation-Id"}[a.Provider]); got != a.RequestID {
				t.Errorf("the provider's request id is %q, want %q", got, a.RequestID)
			}
		}
	})
}

// Every call is recorded as a chat is, by whatever way its cost is known.
func TestEmbeddingsAreRecorded(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		h.everyKey()
		for model, status := range embedders {
			r := h.embed(model, `["one two three","four"]`, `,"encoding_format":"float"`).want(t, 200)
			body := gjson.ParseBytes(r.body)
			if got := body.Get("data.#.index").Raw; got != "[0,1]" || body.Get("object").Str != "list" || body.Get("data.0.embedding.0").Type != gjson.Number {
				t.Errorf("%s: %.200s", model, r.body)
			}
			// 17 bytes: the simulator rounds up for each text, we for all.
			tokens := int64(5)
			if body.Get("usage.prompt_tokens").Int() != tokens || body.Get("usage.total_tokens").Int() != tokens {
				t.Errorf("%s: usage %s", model, body.Get("usage").Raw)
			}
			c := h.call(r)
			attempt := c["attempts"].([]any)[0].(map[string]any)
			provider, _ := c["provider"].(string)
			if c["kind"] != "embeddings" || c["status"] != "complete" || c["stream"] != false || c["thread_id"] != nil || c["http_status"] != 200.0 ||
				c["model_requested"] != model || c["cost_status"] != status || attempt["state"] != "ok" || attempt["cost_status"] != status {
				t.Errorf("%s: the call reads %v", model, c)
			}
			if served, _ := c["model_served"].(string); served == "" || !strings.HasSuffix(model, served) {
				t.Errorf("%s: served by %v", model, c["model_served"])
			}
			lines := h.lines(r)
			if len(lines) != 1 || lines[0].Kind != metering.Use || lines[0].Charge.Input != tokens || lines[0].Charge.Output != 0 || lines[0].Provider != provider ||
				string(lines[0].Charge.Status) != status || lines[0].MaybeBilled || (lines[0].Charge.Cost == 0) != (status == "unpriced") {
				t.Errorf("%s: the ledger has %+v", model, lines)
			}
			cost, _ := c["cost_usd"].(string)
			if r.header.Get("X-Threadhub-Cost-Usd") != cost || r.header.Get("X-Threadhub-Cost-Status") != status || r.header.Get("X-Threadhub-Provider") != provider {
				t.Errorf("%s: headers %v, cost %s", model, r.header, cost)
			}
		}
		// What Gemini does count is taken.
		r := h.embed("gemini/gemini-embedding-2", `"[[sim prompt_tokens=7]] x"`, "").want(t, 200)
		if gjson.GetBytes(r.body, "usage").Raw != `{"prompt_tokens":7,"total_tokens":7}` || h.call(r)["cost_status"] != "computed" {
			t.Errorf("%s, %v", r.body, h.call(r))
		}
	})
}

// What is asked for as numbers and as base64 is the same at every provider, and has the size that was asked for.
func TestEmbeddingsInBothEncodings(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{})
	h.everyKey()
	for _, model := range []string{"openai/text-embedding-3-large", "openrouter/openai/text-embedding-3-small", "gemini/gemini-embedding-001", "perplexity/pplx-embed-v1-4b"} {
		r := h.embed(model, `["one","two"]`, `,"dimensions":200`).want(t, 200)
		numbers := gjson.GetBytes(r.body, "data.1.embedding").Array()
		packed := h.embed(model, `["one","two"]`, `,"dimensions":200,"encoding_format":"base64"`).want(t, 200)
		raw, err := base64.StdEncoding.DecodeString(gjson.GetBytes(packed.body, "data.1.embedding").Str)
		if err != nil || len(raw) != 4*200 || len(numbers) != 200 {
			t.Errorf("%s: %d numbers, %d bytes, %v", model, len(numbers), len(raw), err)
			continue
		}
		for i, v := range numbers {
			if float32(v.Num) != math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])) {
				t.Errorf("%s: number %d differs", model, i)
			}
		}
		if got, want := r.header.Get("X-Threadhub-Warning"), map[bool]string{true: "partial=dimensions;reason=not_normalised"}[strings.HasSuffix(model, "001")]; got != want {
			t.Errorf("%s: warned of %q", model, got)
		}
	}
}

// A thread is no place for embeddings. Clients that send its id with everything are not refused for it.
func TestEmbeddingsHaveNoThread(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		for about, r := range map[string]heard{
			"in the header":  h.embed("openai/text-embedding-3-small", `"x"`, "", "X-Thread-Id", "t1"),
			"a new one":      h.embed("openai/text-embedding-3-small", `"x"`, "", "X-Thread-Id", "new"),
			"none that can":  h.embed("openai/text-embedding-3-small", `"x"`, "", "X-Thread-Id", "no thread"),
			"in the body":    h.embed("openai/text-embedding-3-small", `"x"`, `,"thread_id":"t1"`),
			"in the rest":    h.embed("openai/text-embedding-3-small", `"x"`, `,"metadata":{"thread_id":"t1"}`),
			"in both places": h.embed("openai/text-embedding-3-small", `"x"`, `,"thread_id":"t1"`, "X-Thread-Id", "t2"),
		} {
			r.want(t, 200)
			if got := r.header.Get("X-Threadhub-Warning"); got != "dropped=thread_id;reason=embeddings" || r.header.Get("X-Thread-Id") != "" {
				t.Errorf("%s: warned of %q, thread %q", about, got, r.header.Get("X-Thread-Id"))
			}
			if got := fmt.Sprint(h.call(r)["warnings"]); got != "[dropped=thread_id;reason=embeddings]" {
				t.Errorf("%s: the call's warnings are %s", about, got)
			}
		}
		h.everyKey()
		for _, model := range []string{"gemini/gemini-embedding-2", "perplexity/pplx-embed-v1-4b"} { // with a warning of their own
			r := h.embed(model, `"x"`, `,"user":"u"`, "X-Thread-Id", "t1").want(t, 200)
			if got := r.header.Get("X-Threadhub-Warning"); got != "dropped=user;reason=unsupported, dropped=thread_id;reason=embeddings" {
				t.Errorf("%s: warned of %q", model, got)
			}
		}
		h.do("GET", "/api/threads/t1", "").want(t, 404)
		for _, a := range h.attempts() {
			if strings.Contains(string(a.Body), "thread_id") || strings.Contains(string(a.Body), "metadata") {
				t.Errorf("the provider got %s", a.Body)
			}
		}
	})
}

func TestEmbeddingsModelNames(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		h.do("PUT", "/api/router/rules", `{"rules":[{"id":"all","targets":["openai"]}],"aliases":{"embed":["gemini/gemini-embedding-2","openrouter/sim-embed"],"emb-*":["openai/text-embedding-3-small"]}}`).want(t, 200)
		for model, want := range map[string]string{
			"text-embedding-3-small":        "catalogue openai text-embedding-3-small",
			"openai/text-embedding-3-small": "explicit openai text-embedding-3-small",
			"embed":                         "alias openrouter sim-embed", // there is no key for the first
			"emb-any":                       "alias openai text-embedding-3-small",
		} {
			r := h.embed(model, `"x"`, "").want(t, 200)
			got := r.header.Get("X-Threadhub-Route") + " " + r.header.Get("X-Threadhub-Provider") + " " + r.header.Get("X-Threadhub-Model")
			if got != want {
				t.Errorf("%s: %s, want %s", model, got, want)
			}
		}
		asked := len(h.attempts())
		for model, want := range map[string]string{
			"auto": "400 invalid_value", "nosuch": "404 model_not_found", "gemini/gemini-embedding-2": "400 provider_key_missing", "gemini-embedding-2": "400 provider_key_missing",
		} {
			if r := h.embed(model, `"x"`, ""); fmt.Sprint(r.status, " ", r.code()) != want || gjson.GetBytes(r.body, "error.param").Str != "model" {
				t.Errorf("%s: %d %s", model, r.status, r.body)
			}
		}
		key := as(h.made("/api/keys", `{"models":["text-*"],"providers":["openai"]}`)["api_key"].(string))
		for _, model := range []string{"openai/sim-embed", "openrouter/openai/text-embedding-3-small"} {
			if r := h.embed(model, `"x"`, "", key...); r.status != 403 || r.code() != "model_not_allowed" {
				t.Errorf("%s: %d %s", model, r.status, r.body)
			}
		}
		if got := len(h.attempts()); got != asked {
			t.Errorf("providers were asked %d times for what was refused", got-asked)
		}
		h.embed("openai/text-embedding-3-small", `"x"`, "", key...).want(t, 200)
		viewer := h.seed("house", "viewer@house.test", orgs.Viewer)
		if r := h.embed("openai/text-embedding-3-small", `"x"`, "", as(viewer.APIKey.Reveal())...); r.status != 403 {
			t.Errorf("a viewer: %d %s", r.status, r.body)
		}
	})
}

func TestEmbeddingsBadInput(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{})
	h.everyKey()
	texts := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat(`"x",`, n), ",") + "]" }
	const oa, or, ge, pe = "openai/text-embedding-3-small", "openrouter/sim-embed", "gemini/gemini-embedding-2", "perplexity/pplx-embed-v1-0.6b"
	for _, c := range []struct{ model, input, more, want string }{
		{oa, `""`, "", "400 invalid_value input"},
		{oa, `[]`, "", "400 empty_array input"},
		{oa, `["a",""]`, "", "400 invalid_value input[1]"},
		{oa, `["a",1]`, "", "400 invalid_type input[1]"},
		{oa, `null`, "", "400 missing_required_parameter input"},
		{oa, texts(2049), "", "400 array_above_max_length input"},
		{oa, `"x"`, `,"dimensions":"8"`, "400 invalid_type dimensions"},
		{oa, `"x"`, `,"dimensions":99999`, "400 invalid_request dimensions"}, // the provider's own refusal
		{oa, `"x"`, `,"encoding_format":"int8"`, "400 invalid_request encoding_format"},
		{oa, `"x"`, `,"new_member":1`, "400 invalid_request "},
		{oa, `"x"`, `,"Model":"y"`, "400 unknown_parameter Model"},
		{or, `[{"content":[]}]`, `,"input_type":"query"`, "200  "},
		{oa, `[1,2,3]`, "", "200  "},
		{or, `[[1,2],[3]]`, "", "200  "},
		{"openai/gpt-4.1-mini", `"x"`, "", "400 invalid_request model"},
		{"openai/nosuch", `"x"`, "", "404 model_not_found "},
		{ge, `[1,2,3]`, "", "400 unsupported_parameter input"},
		{ge, `[[1],[2]]`, "", "400 unsupported_parameter input"},
		{ge, `[{"content":[]}]`, "", "400 unsupported_parameter input"},
		{ge, texts(2049), "", "400 array_above_max_length input"},
		{ge, texts(100), "", "200  "},
		{ge, `"x"`, `,"encoding_format":"int8"`, "400 unsupported_parameter encoding_format"},
		{ge, `"x"`, `,"user":"u","new_member":1`, "200  "},
		{"gemini/gemini-3.8-flash", `"x"`, "", "404 model_not_found model"},
		{pe, `[1,2,3]`, "", "400 unsupported_parameter input"},
		{pe, `"x"`, `,"dimensions":4`, "400 invalid_parameter "},
		{pe, `"x"`, `,"encoding_format":"base64_int8"`, "400 unsupported_parameter encoding_format"},
		{pe, `"x"`, `,"user":"u","new_member":1`, "200  "},
		{"perplexity/sonar", `"x"`, "", "400 invalid_model "},
	} {
		r := h.embed(c.model, c.input, c.more)
		if got := fmt.Sprint(r.status, " ", r.code(), " ", gjson.GetBytes(r.body, "error.param").Str); got != c.want {
			t.Errorf("%s %.60s %s: %s, want %s: %.300s", c.model, c.input, c.more, got, c.want, r.body)
		}
		warned := r.header.Get("X-Threadhub-Warning")
		if want := map[bool]string{true: "dropped=user;reason=unsupported, dropped=new_member;reason=unknown"}[strings.Contains(c.more, "new_member") && r.status == 200]; warned != want {
			t.Errorf("%s %s: warned of %q", c.model, c.more, warned)
		}
	}
	for _, body := range []string{"", "[]", `{"model":"` + oa + `","input":"x"`, "\xff"} {
		if r := h.do("POST", "/v1/embeddings", body); r.status != 400 {
			t.Errorf("%q: %d %s", body, r.status, r.body)
		}
	}
	if r := h.do("GET", "/v1/embeddings", ""); r.status != 405 {
		t.Errorf("GET: %d", r.status)
	}
}

// Every way a provider can fail: the client is told, the call says so, the ledger has its line.
func TestEmbeddingsFailures(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{Failover: once}, func(t *testing.T, h *house) {
		h.everyKey()
		for _, c := range []struct {
			fault  string
			status int
			code   string
			billed bool // it may have been
		}{
			{"status=500", 502, "upstream_error", false},
			{"status=429 retry_after=2", 429, "rate_limit_exceeded", false},
			{"status=401", 502, "upstream_auth", false},
			{"fault=reset", 502, "upstream_reset", true},
			{"fault=cut", 502, "upstream_protocol", true},
			{"fault=cut_raw", 502, "upstream_protocol", true},
			{"fault=garbage", 502, "upstream_protocol", true},
			{"fault=fewer", 502, "upstream_protocol", true},
			{"fault=error_200", 502, "upstream_error", false},
			{"fault=html", 502, "upstream_error", false},
			{"fault=echo_key", 502, "upstream_auth", false},
			{"fault=redirect", 502, "upstream_protocol", true},
		} {
			for _, model := range []string{"openai/text-embedding-3-small", "openrouter/openai/text-embedding-3-small", "gemini/gemini-embedding-2", "perplexity/pplx-embed-v1-0.6b"} {
				if c.fault == "status=401" && strings.HasPrefix(model, "gemini") {
					continue // it has no such status for this
				}
				r := h.embed(model, `["one","[[sim `+c.fault+`]]"]`, "")
				if r.status != c.status || r.code() != c.code {
					t.Errorf("%s, %s: %d %s", model, c.fault, r.status, r.body)
					continue
				}
				call := h.call(r)
				attempt := call["attempts"].([]any)[0].(map[string]any)
				if call["status"] != "failed" || call["status_reason"] != c.code || call["kind"] != "embeddings" || attempt["state"] != "failed" {
					t.Errorf("%s, %s: the call reads %v", model, c.fault, call)
				}
				lines := h.lines(r)
				// Of what came, but for one embedding, the provider told the usage; Gemini tells none.
				told := c.fault == "fault=fewer" && !strings.HasPrefix(model, "gemini")
				if len(lines) != 1 || lines[0].MaybeBilled != (c.billed && !told) || (lines[0].Charge.Cost != 0) != told {
					t.Errorf("%s, %s: the ledger has %+v", model, c.fault, lines)
				}
				if strings.HasPrefix(c.fault, "status=429 ") && !strings.HasPrefix(model, "gemini") && r.header.Get("Retry-After") != "2" {
					t.Errorf("%s: Retry-After %q", model, r.header.Get("Retry-After"))
				}
			}
		}
		for fault, status := range map[string]string{"fault=no_usage": "estimated", "fault=hostile_usage": "estimated", "fault=zero_usage": "computed"} {
			r := h.embed("openai/text-embedding-3-small", `"[[sim `+fault+`]]"`, "").want(t, 200)
			if got := r.header.Get("X-Threadhub-Cost-Status"); got != status {
				t.Errorf("%s: its cost is %s", fault, got)
			}
		}
		r := h.embed("openai/text-embedding-3-small", `"[[sim fault=silent]]"`, "") // by the patience for headers, not that for thinking
		if r.status != 504 || r.code() != "upstream_timeout" {
			t.Errorf("silence: %d %s", r.status, r.body)
		}
	})
}

// The call is open, durably, before the provider is asked; a process that dies leaves a call that is settled once, by an
// estimate of what was to be embedded, and what it really cost is in the ledger in the end.
func TestEmbeddingsAreOpenBeforeTheyAreAskedFor(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		done := make(chan heard)
		go func() {
			done <- h.embed("openai/text-embedding-3-small", `["[[sim first=1s prompt_tokens=100]] `+strings.Repeat("word", 100)+`"]`, "")
		}()
		testkit.Eventually(t, 5*time.Second, func() bool { return len(h.sim.Log()) == 1 })
		call := id.Request(strings.TrimSuffix(h.sim.Log()[0].Name, "-0"))
		c, err := h.calls.Call(t.Context(), h.admin.Org, call)
		if err != nil || c.State != "open" || c.Facts.Kind != "embeddings" || len(c.Attempts) != 1 || c.Attempts[0].Provider != "openai" {
			t.Errorf("while the provider works the call is %+v, %v", c, err)
		}
		if settled, err := h.settler(h.store).settleOne(t.Context(), calls.Orphan{Org: h.admin.Org, ID: call}); err != nil || !settled {
			t.Fatal(settled, err)
		}
		r := <-done
		if r.status != 503 || r.code() != "lost_lease" {
			t.Errorf("its owner's client got %d %s", r.status, r.body)
		}
		lines := h.lines(r)
		if len(lines) != 2 || lines[0].Kind != metering.Late || lines[1].Charge.Status != metering.Estimated || !lines[1].MaybeBilled || lines[1].Charge.Input < 105 {
			t.Fatalf("the ledger has %+v", lines)
		}
		if sum := lines[0].Charge.Input + lines[1].Charge.Input; sum != 100 {
			t.Errorf("%d tokens in all", sum)
		}
	})
}

func TestClientLeavesEmbeddings(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{})
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	const body = `{"model":"openrouter/sim-embed","input":"[[sim first=1m]]"}`
	fmt.Fprintf(conn, "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		h.admin.APIKey.Reveal(), len(body), body)
	testkit.Eventually(t, 5*time.Second, func() bool { return len(h.sim.Log()) == 1 })
	_ = conn.Close()
	call := id.Request(strings.TrimSuffix(h.sim.Log()[0].Name, "-0"))
	testkit.Eventually(t, 10*time.Second, func() bool {
		c, err := h.calls.Call(t.Context(), h.admin.Org, call)
		return err == nil && c.Outcome == calls.Failed && c.Reason == "client_closed"
	}, "the call of a client that has left to be recorded")
	if log := h.attempts(); log[0].End != "client_gone" {
		t.Errorf("the provider says %s", log[0].End)
	}
}

// A text has the same embedding alone and among others: none is lost or moved.
func TestEmbeddingsKeepTheirOrder(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{})
	h.everyKey()
	texts := make([]string, 100)
	for i := range texts {
		texts[i] = fmt.Sprintf("%q", fmt.Sprint("text ", i))
	}
	for _, model := range []string{"openai/sim-embed", "gemini/gemini-embedding-2", "perplexity/pplx-embed-v1-0.6b"} {
		dims := `,"dimensions":128`
		if strings.HasPrefix(model, "openai") {
			dims = ""
		}
		all := gjson.GetBytes(h.embed(model, "["+strings.Join(texts, ",")+"]", dims).want(t, 200).body, "data.#.embedding").Array()
		var seen []string
		for _, i := range []int{0, 1, 57, 99} {
			one := gjson.GetBytes(h.embed(model, texts[i], dims).want(t, 200).body, "data.0.embedding").Raw
			if len(all) != 100 || all[i].Raw != one || slices.Contains(seen, one) {
				t.Errorf("%s: text %d has another embedding among others", model, i)
			}
			seen = append(seen, one)
		}
	}
}

// More texts than a provider takes in a request are asked for in several, and are one attempt with one line in the ledger.
func TestEmbeddingsInBatches(t *testing.T) {
	eachHouse(t, Options{Failover: once}, func(t *testing.T, h *house) {
		h.everyKey()
		texts := func(n int, last string) string {
			list := make([]string, n)
			for i := range list {
				list[i] = fmt.Sprintf("%q", fmt.Sprint("text ", i))
			}
			return "[" + strings.Join(append(list[:n-1], last), ",") + "]"
		}
		for _, c := range []struct {
			model         string
			inputs, asked int
			status        string
		}{
			{"gemini/gemini-embedding-2", 201, 3, "estimated"},
			{"perplexity/pplx-embed-v1-0.6b", 513, 2, "reported"},
		} {
			for _, format := range []string{"float", "base64"} {
				before := len(h.attempts())
				more := `,"dimensions":128,"encoding_format":"` + format + `"`
				r := h.embed(c.model, texts(c.inputs, `"the last"`), more).want(t, 200)
				one := h.embed(c.model, `["text 100","the last"]`, more).want(t, 200)
				data := gjson.GetBytes(r.body, "data").Array()
				if len(data) != c.inputs {
					t.Fatalf("%s: %d embeddings", c.model, len(data))
				}
				for i, v := range data {
					if v.Get("index").Int() != int64(i) {
						t.Fatalf("%s: embedding %d says that it is %s", c.model, i, v.Get("index").Raw)
					}
				}
				for i, at := range []int{100, c.inputs - 1} {
					if want := gjson.GetBytes(one.body, fmt.Sprintf("data.%d.embedding", i)).Raw; data[at].Get("embedding").Raw != want {
						t.Errorf("%s, %s: text %d has another embedding among others", c.model, format, at)
					}
				}
				log := h.attempts()[before:]
				if len(log) != c.asked+1 || log[0].Name != log[c.asked-1].Name {
					t.Errorf("%s: asked %d times", c.model, len(log)-1)
				}
				lines, attempts := h.lines(r), h.call(r)["attempts"].([]any)
				if len(lines) != 1 || lines[0].MaybeBilled || len(attempts) != 1 || string(lines[0].Charge.Status) != c.status {
					t.Errorf("%s: %d attempts, the ledger has %+v", c.model, len(attempts), lines)
				}
				if got := gjson.GetBytes(r.body, "usage.prompt_tokens").Int(); got != lines[0].Charge.Input || got < int64(c.inputs) {
					t.Errorf("%s: the client is told of %d tokens, and the ledger has %d", c.model, got, lines[0].Charge.Input)
				}
			}
			// The last request fails: so does all, nobody is asked again, and what was answered may be billed.
			before := len(h.attempts())
			r := h.embed(c.model, texts(c.inputs, `"[[sim status=500]]"`), `,"dimensions":128`).want(t, 502)
			lines := h.lines(r)
			if r.code() != "upstream_error" || len(lines) != 1 || !lines[0].MaybeBilled || len(h.attempts())-before != c.asked {
				t.Errorf("%s: %s, %d requests, the ledger has %+v", c.model, r.body, len(h.attempts())-before, lines)
			}
			if told := lines[0].Charge.Cost != 0; told != (c.status == "reported") {
				t.Errorf("%s: the failed call cost %+v", c.model, lines[0].Charge)
			}
		}
	})
}

// What was answered in part is billed, so that the next key is not asked when the rest is refused.
func TestEmbeddingsInBatchesAreNotAskedForAgain(t *testing.T) {
	for inputs, want := range map[int]int{50: 2, 101: 1} {
		h := newHouse(t, testkit.SQLite(t), Options{})
		h.everyKey()
		h.do("PUT", h.providers("gemini"), `{"name":"spare","api_key":"sk-test-key-9876543210"}`).want(t, 200)
		h.play(simulator.Script{Provider: "gemini", Match: "the last", Path: "*", Do: "status=429"})
		r := h.embed("gemini/gemini-embedding-2", "["+strings.Repeat(`"x",`, inputs-1)+`"the last"]`, "").want(t, 429)
		if got := len(h.call(r)["attempts"].([]any)); got != want {
			t.Errorf("%d texts: %d attempts", inputs, got)
		}
	}
}

// A request for embeddings is answered once too, whatever its provider.
func TestEmbeddingsAreAnsweredOnce(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		h.everyKey()
		for _, model := range []string{"openai/text-embedding-3-small", "openrouter/sim-embed", "gemini/gemini-embedding-2", "perplexity/pplx-embed-v1-4b"} {
			before := len(h.attempts())
			first := h.embed(model, `["one","two"]`, "", key, model).want(t, 200)
			same(t, first, h.embed(model, `["one","two"]`, "", key, model))
			if n := len(h.attempts()) - before; n != 1 {
				t.Errorf("%s: the provider was asked %d times", model, n)
			}
			if r := h.embed(model, `["one","three"]`, "", key, model); r.status != 422 || r.code() != "idempotency_key_reused" {
				t.Errorf("%s: other words: %d %s", model, r.status, r.body)
			}
			if r := h.do("GET", "/v1/requests/"+first.header.Get("X-Request-Id")+"/stream", ""); r.status != 400 || r.code() != "not_a_stream" {
				t.Errorf("%s: its stream: %d %s", model, r.status, r.body)
			}
		}
		if r := h.embed("openai/sim-embed", `"one"`, "", key, "refused", "X-Thread-Id", "t").want(t, 200); r.header.Get("Idempotent-Replayed") != "" {
			t.Error("nobody had asked that")
		}
	})
}

// What cannot be told is left out or refused as the key says.
func TestEmbeddingsOnUnsupported(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		h.everyKey()
		reject := as(h.made("/api/keys", `{"on_unsupported":"reject"}`)["api_key"].(string))
		drop := as(h.made("/api/keys", `{"on_unsupported":"drop"}`)["api_key"].(string))
		for _, model := range []string{"gemini/gemini-embedding-2", "perplexity/pplx-embed-v1-4b", "openai/text-embedding-3-small"} {
			passes := strings.HasPrefix(model, "openai")
			if r := h.embed(model, `"x"`, `,"user":"u"`, reject...); passes != (r.status == 200) || !passes && (r.code() != "unsupported_parameter" || gjson.GetBytes(r.body, "error.param").Str != "user") {
				t.Errorf("%s: a hint where nothing may be left out: %d %s", model, r.status, r.body)
			}
			if r := h.embed(model, `"x"`, "", append(reject, "X-Thread-Id", "t")...); r.status != 400 || r.code() != "unsupported_parameter" || gjson.GetBytes(r.body, "error.param").Str != "thread_id" {
				t.Errorf("%s: a thread where nothing may be left out: %d %s", model, r.status, r.body)
			}
			if r := h.embed(model, `"x"`, `,"encoding_format":"base64_int8"`, drop...); !passes && (r.status != 200 || r.header.Get("X-Threadhub-Warning") != "dropped=encoding_format;reason=unsupported") {
				t.Errorf("%s: an encoding where it may be left out: %d, warned of %q", model, r.status, r.header.Get("X-Threadhub-Warning"))
			}
			h.embed(model, `"x"`, "", reject...).want(t, 200)
		}
	})
}

// What is too long to be kept is given once, and not asked for again under its key.
func TestLongEmbeddingsAreNotKept(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{})
	ask := func(k string) heard { return h.embed("openai/text-embedding-3-small", `["one","two"]`, "", key, k) }
	h.keepMost = len(ask("a").want(t, 200).body)
	same(t, ask("b").want(t, 200), ask("b"))
	h.keepMost--
	ask("c").want(t, 200)
	for range 2 {
		if r := ask("c"); r.status != 410 || r.code() != "answer_not_kept" {
			t.Errorf("a repeat got %d %s", r.status, r.body)
		}
	}
	if n := len(h.attempts()); n != 3 {
		t.Errorf("the provider was asked %d times", n)
	}
}
