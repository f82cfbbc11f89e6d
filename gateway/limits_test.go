package gateway

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"threadhub/internal/testkit"
	"threadhub/metering/limits"
	"threadhub/orgs"
)

// limited is a gateway that keeps limits by itself.
func limited() Options { return Options{Limits: limits.NewLocal(limits.Options{})} }

// eachLimited is eachHouse with limits of each one's own.
func eachLimited(t *testing.T, f func(t *testing.T, h *house)) {
	for name, url := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, newHouse(t, url(t), limited()))
		})
	}
}

// putLimit sets a limit of the house's org, or of what body names.
func (h *house) putLimit(body string) map[string]any {
	h.t.Helper()
	return h.do("PUT", "/api/limits", body).want(h.t, 200).json(h.t)
}

func TestLimitsByTheAPI(t *testing.T) {
	t.Parallel()
	eachLimited(t, func(t *testing.T, h *house) {
		user, key := h.person("bob@house.test", orgs.Member)
		mine, _, _ := strings.Cut(strings.TrimPrefix(key, "th_"), "_")
		made := h.putLimit(`{"scope":"org","requests_per_minute":1000}`)
		if got := names(made); got != "concurrent_streams created_at id model org_id requests_per_minute scope tokens_per_minute updated_at" {
			t.Errorf("a limit has %s", got)
		}
		if made["id"] != string(h.admin.Org) || made["requests_per_minute"] != 1000.0 || made["tokens_per_minute"] != nil || made["model"] != nil {
			t.Errorf("made %v", made)
		}
		h.putLimit(`{"scope":"user","id":"` + user + `","tokens_per_minute":5,"concurrent_streams":2}`)
		h.putLimit(`{"scope":"key","id":"` + mine + `","model":"gpt-5-mini","requests_per_minute":7}`)
		again := h.putLimit(`{"scope":"key","id":"` + mine + `","model":"gpt-5-mini","requests_per_minute":8,"tokens_per_minute":9,"org_id":"` + string(h.admin.Org) + `"}`)
		if again["requests_per_minute"] != 8.0 || again["tokens_per_minute"] != 9.0 {
			t.Errorf("changed to %v", again)
		}
		var seen []string
		for cursor := ""; ; {
			page := h.do("GET", "/api/limits?limit=1&cursor="+cursor, "").want(t, 200).json(t)
			for _, l := range page["data"].([]any) {
				l := l.(map[string]any)
				seen = append(seen, fmt.Sprint(l["scope"], l["id"], l["model"], l["requests_per_minute"], l["tokens_per_minute"], l["concurrent_streams"]))
			}
			if page["next_cursor"] == nil {
				break
			}
			cursor = page["next_cursor"].(string)
		}
		want := []string{
			"key" + mine + "gpt-5-mini 8 9 <nil>", "user" + user + "<nil> <nil> 5 2", "org" + string(h.admin.Org) + "<nil> 1000 <nil> <nil>",
		}
		if strings.ReplaceAll(fmt.Sprint(seen), " ", "") != strings.ReplaceAll(fmt.Sprint(want), " ", "") {
			t.Errorf("listed %q, want %q", seen, want)
		}
		h.do("DELETE", "/api/limits?scope=key&id="+mine+"&model=gpt-5-mini", "").want(t, 200)
		h.do("DELETE", "/api/limits?scope=org", "").want(t, 200)
		if r := h.do("DELETE", "/api/limits?scope=org", "").want(t, 404); r.code() != "limit_not_found" {
			t.Errorf("%s", r.body)
		}
		lines, err := h.orgs.Audit(t.Context(), h.admin.Org, 0, 6)
		if err != nil {
			t.Fatal(err)
		}
		var told []string
		for _, l := range lines {
			told = append(told, l.Action+" "+l.Target+" "+string(l.Detail))
		}
		for i, want := range []string{
			"limit.delete " + string(h.admin.Org), "limit.delete " + mine, "limit.put " + mine, "limit.put " + mine, "limit.put " + user, "limit.put " + string(h.admin.Org),
		} {
			if !strings.HasPrefix(told[i], want) {
				t.Errorf("the audit log has %q, want %q", told[i], want)
			}
		}
		if !strings.Contains(told[2], `"requests_per_minute":8`) {
			t.Errorf("the audit log has %q", told[2])
		}

		for body, code := range map[string]string{
			`{"scope":"org"}`: "missing_required_parameter", `{"scope":"org","requests_per_minute":0}`: "invalid_value",
			`{"scope":"org","requests_per_minute":1000000001}`: "invalid_value", `{"scope":"org","requests_per_minute":-1}`: "invalid_value",
			`{"scope":"org","requests_per_minute":"5"}`: "invalid_type", `{"scope":"team","id":"x","requests_per_minute":5}`: "invalid_value",
			`{"scope":"org","requests_per_minute":5,"model":"a b"}`: "invalid_value", `{"scope":"org","requests_per_minute":5,"budget":1}`: "unknown_parameter",
		} {
			if r := h.do("PUT", "/api/limits", body).want(t, 400); r.code() != code {
				t.Errorf("%s: %s", body, r.body)
			}
		}
		for _, body := range []string{
			`{"scope":"user","id":"usr_0","requests_per_minute":5}`, `{"scope":"key","id":"AAAAAAAAAAAA","requests_per_minute":5}`,
			`{"scope":"org","id":"org_other","requests_per_minute":5}`, `{"scope":"user","requests_per_minute":5}`,
		} {
			h.do("PUT", "/api/limits", body).want(t, 404)
		}
		h.do("PUT", "/api/limits", `{"scope":"org","requests_per_minute":5}`, as(key)...).want(t, 403)
		h.do("GET", "/api/limits", "", as(key)...).want(t, 403)
	})
}

// left is what the header says is left of a limit.
func left(h http.Header, of string) string { return h.Get("X-Ratelimit-Remaining-" + of) }

func TestRequestsAreLimited(t *testing.T) {
	t.Parallel()
	eachLimited(t, func(t *testing.T, h *house) {
		if r := h.chat("hello", "").want(t, 200); r.header.Get("X-Ratelimit-Limit-Requests") != "" {
			t.Errorf("limits of nobody: %v", r.header)
		}
		h.putLimit(`{"scope":"org","requests_per_minute":3}`)
		r := h.chat("hello", "").want(t, 200)
		if left(r.header, "Requests") != "2" || r.header.Get("X-Ratelimit-Limit-Requests") != "3" || left(r.header, "Tokens") != "" {
			t.Errorf("%v", r.header)
		}
		if reset, err := time.ParseDuration(r.header.Get("X-Ratelimit-Reset-Requests")); err != nil || reset > 20*time.Second || reset < 15*time.Second {
			t.Errorf("the limit is whole again in %v: %v", reset, err)
		}
		h.do("POST", "/v1/embeddings", `{"model":"openai/text-embedding-3-small","input":"hello"}`).want(t, 200)
		h.chat("hello", `,"stream":true`).want(t, 200)
		before := len(h.attempts())
		r = h.chat("hello", "", "X-Thread-Id", "refused", "Idempotency-Key", "refused").want(t, 429)
		after, err := strconv.Atoi(r.header.Get("Retry-After"))
		if r.code() != "rate_limit_exceeded" || err != nil || after < 1 || after > 20 || left(r.header, "Requests") != "0" || r.header.Get("X-Should-Retry") != "" {
			t.Errorf("%s %v", r.body, r.header)
		}
		if !strings.Contains(string(r.body), "the organisation is limited to 3 requests per minute") {
			t.Errorf("%s", r.body)
		}
		// Nothing of it is stored, and nobody was asked.
		h.do("GET", "/api/threads/refused", "").want(t, 404)
		h.do("GET", "/v1/requests/"+r.header.Get("X-Request-Id"), "").want(t, 404)
		if n := len(h.attempts()); n != before {
			t.Errorf("%d attempts more", n-before)
		}
		// What is not a call is not limited.
		h.do("GET", "/v1/models", "").want(t, 200)
		h.do("DELETE", "/api/limits?scope=org", "").want(t, 200)
		h.chat("hello", "").want(t, 200)
	})
}

// Each is under its own limit, and all that somebody is under count.
func TestLimitsOfUsersAndKeys(t *testing.T) {
	t.Parallel()
	h := newHouse(t, testkit.SQLite(t), limited())
	bob, first := h.person("bob@house.test", orgs.Member)
	second := h.made("/api/keys", `{"user_id":"`+bob+`"}`)["api_key"].(string)
	keyID, _, _ := strings.Cut(strings.TrimPrefix(first, "th_"), "_")
	h.putLimit(`{"scope":"user","id":"` + bob + `","requests_per_minute":3}`)
	h.putLimit(`{"scope":"key","id":"` + keyID + `","requests_per_minute":1}`)
	r := h.chat("hello", "", as(first)...).want(t, 200)
	if left(r.header, "Requests") != "0" {
		t.Errorf("of the tightest limit are left: %v", r.header)
	}
	if r = h.chat("hello", "", as(first)...).want(t, 429); !strings.Contains(string(r.body), "the API key is limited") {
		t.Errorf("%s", r.body)
	}
	h.chat("hello", "", as(second)...).want(t, 200)
	h.chat("hello", "", as(second)...).want(t, 200)
	if r = h.chat("hello", "", as(second)...).want(t, 429); !strings.Contains(string(r.body), "the user is limited") {
		t.Errorf("%s", r.body)
	}
	h.chat("hello", "").want(t, 200) // of somebody else
}

// A limit on a model is on what is asked, by whatever name.
func TestLimitsOfModels(t *testing.T) {
	t.Parallel()
	h := newHouse(t, testkit.SQLite(t), limited())
	h.do("PUT", "/api/router/rules", `{"rules":[{"id":"all","reason":"r","targets":["openai/gpt-5-mini"]}],"aliases":{"fast":["openai/gpt-5-mini"]}}`).want(t, 200)
	h.putLimit(`{"scope":"org","model":"gpt-5-mini","requests_per_minute":4}`)
	h.putLimit(`{"scope":"org","requests_per_minute":100}`)
	ask := func(model string) heard {
		return h.do("POST", "/v1/chat/completions", `{"model":"`+model+`","messages":[{"role":"user","content":"hello"}]}`)
	}
	for i, model := range []string{"openai/gpt-5-mini", "gpt-5-mini", "auto", "fast"} {
		if r := ask(model).want(t, 200); left(r.header, "Requests") != strconv.Itoa(3-i) {
			t.Errorf("%s leaves %s", model, left(r.header, "Requests"))
		}
	}
	for _, model := range []string{"openai/gpt-5-mini", "gpt-5-mini", "auto", "fast"} {
		ask(model).want(t, 429)
	}
	// Whoever was refused for the model has taken nothing of the rest.
	if r := ask("openai/gpt-5.4-mini").want(t, 200); left(r.header, "Requests") != "95" {
		t.Errorf("of 100 %s are left after five calls", left(r.header, "Requests"))
	}
}

// A further attempt at a model that is at its limit is passed over.
func TestAFullModelIsPassedOver(t *testing.T) {
	t.Parallel()
	h := newHouse(t, testkit.SQLite(t), limited())
	h.do("PUT", "/api/router/rules", `{"rules":[{"id":"all","reason":"r","targets":["openai/gpt-5-mini","openai/gpt-5.4-mini","openrouter/openai/gpt-4.1-mini"]}]}`).want(t, 200)
	h.putLimit(`{"scope":"org","model":"openai/gpt-5.4-mini","requests_per_minute":1}`)
	h.do("POST", "/v1/chat/completions", `{"model":"openai/gpt-5.4-mini","messages":[{"role":"user","content":"hello"}]}`).want(t, 200)
	r := h.do("POST", "/v1/chat/completions", `{"model":"auto","messages":[{"role":"user","content":"[[sim provider=openai fault=http status=500]] hello"}]}`)
	if r.status == 200 && r.header.Get("X-Threadhub-Provider") != "openrouter" {
		t.Errorf("answered by %v", r.header)
	}
	for _, a := range h.attempts()[1:] {
		if strings.Contains(string(a.Body), "gpt-5.4-mini") {
			t.Error("the model that is at its limit was asked")
		}
	}
}

func TestTokensAreLimited(t *testing.T) {
	t.Parallel()
	eachLimited(t, func(t *testing.T, h *house) {
		h.putLimit(`{"scope":"org","tokens_per_minute":10000}`)
		h.chat("[[sim prompt_tokens=1000 completion_tokens=500]] hello", `,"max_completion_tokens":6000`).want(t, 200)
		// 1500 were used, not 6000.
		r := h.chat("[[sim prompt_tokens=100 completion_tokens=0]] hello", `,"max_completion_tokens":8000`).want(t, 200)
		if n, _ := strconv.Atoi(left(r.header, "Tokens")); n < 400 || n > 900 {
			t.Errorf("while 8000 of the rest are held %d are left", n)
		}
		r = h.chat("hello", `,"max_completion_tokens":9900`).want(t, 429)
		if r.code() != "rate_limit_exceeded" || r.header.Get("Retry-After") == "" {
			t.Errorf("%s", r.body)
		}
		// More than there ever is.
		r = h.chat("hello", `,"max_completion_tokens":5001,"n":2`).want(t, 429)
		if r.code() != "tokens_exceed_limit" || r.header.Get("Retry-After") != "" || r.header.Get("X-Should-Retry") != "false" {
			t.Errorf("%s %v", r.body, r.header)
		}
		// More was used than anybody thought: it is owed.
		h.chat("[[sim prompt_tokens=1000 completion_tokens=20000]] hello", "").want(t, 200)
		r = h.chat("hello", "").want(t, 429)
		if after, _ := strconv.Atoi(r.header.Get("Retry-After")); after < 60 {
			t.Errorf("after %ds there is room again, with twice the limit owed", after)
		}
	})
}

// What a thread brings along counts before the provider is asked.
func TestAThreadsHistoryIsLimited(t *testing.T) {
	t.Parallel()
	h := newHouse(t, testkit.SQLite(t), limited())
	h.chat(strings.Repeat("long ", 4000), "", "X-Thread-Id", "t").want(t, 200) // some 5,000 tokens
	h.putLimit(`{"scope":"org","tokens_per_minute":4000}`)
	before := len(h.attempts())
	if r := h.chat("and?", `,"max_completion_tokens":10`, "X-Thread-Id", "t").want(t, 429); r.code() != "tokens_exceed_limit" {
		t.Errorf("%s", r.body)
	}
	if n := len(h.attempts()); n != before {
		t.Error("the provider was asked")
	}
	if r := h.chat("and?", `,"max_completion_tokens":10`).want(t, 200); left(r.header, "Tokens") < "3900" {
		t.Errorf("who was refused took something: %s are left", left(r.header, "Tokens"))
	}
}

func TestStreamsAreLimited(t *testing.T) {
	t.Parallel()
	h := newHouse(t, testkit.SQLite(t), limited())
	h.putLimit(`{"scope":"org","concurrent_streams":2}`)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	for range 2 {
		h.slowStream(ctx)
	}
	r := h.chat("hello", `,"stream":true`).want(t, 429)
	if r.code() != "rate_limit_exceeded" || r.header.Get("Retry-After") != "1" || !strings.Contains(string(r.body), "2 streams at a time") {
		t.Errorf("%s %v", r.body, r.header)
	}
	h.chat("hello", "").want(t, 200) // is no stream
	leave()
	testkit.Eventually(t, 20*time.Second, func() bool { return h.chat("hello", `,"stream":true`).status == 200 }, "the streams that ended are counted on")
	for range 5 { // one after the other
		h.chat("hello", `,"stream":true`).want(t, 200)
	}
	// One that fails, or is refused, ends too.
	for range 5 {
		h.chat("[[sim fault=http status=400]] hello", `,"stream":true`)
		h.chat("hello", `,"stream":true,"model":3`)
	}
	h.chat("hello", `,"stream":true`).want(t, 200)
}

// slowStream begins a stream that goes on until ctx ends.
func (h *house) slowStream(ctx context.Context) {
	h.t.Helper()
	body := `{"model":"openai/gpt-5-mini","stream":true,"messages":[{"role":"user","content":"[[sim chunks=1000 delay=50ms]] hello"}]}`
	req, err := http.NewRequestWithContext(ctx, "POST", h.url+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+h.admin.APIKey.Reveal())
	resp, err := houseClient.Do(req)
	if err != nil || resp.StatusCode != 200 {
		h.t.Fatal(resp, err)
	}
	context.AfterFunc(ctx, func() { _ = resp.Body.Close() })
}

// A repeat that is answered without a provider is not counted, and a request that fails and is asked again is.
func TestRepeatsAreNotCounted(t *testing.T) {
	t.Parallel()
	h := newHouse(t, testkit.SQLite(t), limited())
	h.putLimit(`{"scope":"org","requests_per_minute":2}`)
	h.chat("hello", "", "Idempotency-Key", "a").want(t, 200)
	for range 5 {
		if r := h.chat("hello", "", "Idempotency-Key", "a").want(t, 200); r.header.Get("Idempotent-Replayed") != "true" {
			t.Fatal("it was asked again")
		}
	}
	// While it is answered, others hear it.
	var wg sync.WaitGroup
	ask := func() {
		if r := h.chat("[[sim first=2s]] hello", "", "Idempotency-Key", "b"); r.status != 200 {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
	wg.Go(ask)
	testkit.Eventually(t, 10*time.Second, func() bool { return len(h.sim.Log()) == 2 })
	for range 8 {
		wg.Go(ask)
	}
	wg.Wait()
	h.chat("hello", "").want(t, 429)
	h.chat("hello", "", "Idempotency-Key", "a").want(t, 200) // it costs nobody anything
}

// Limits are one over all replicas: whoever is asked, no more is given out than there is.
func TestReplicasShareLimits(t *testing.T) {
	t.Parallel()
	client := limitsRedis(t, testkit.Redis(t))
	shared := func() limits.Limiter {
		l := limits.NewRedis(client, limits.Options{Timeout: 5 * time.Second, Replicas: func() int { return 2 }})
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	here := newHouse(t, testkit.Postgres(t), Options{Limits: shared()})
	there := here.replicaWith(func(o *Options) { o.Limits = shared() })
	here.putLimit(`{"scope":"org","requests_per_minute":20}`)
	here.chat("hello", "").want(t, 200)
	testkit.Eventually(t, 60*time.Second, func() bool { // it has heard of the limit
		r := there.chat("hello", "")
		return r.header.Get("X-Ratelimit-Limit-Requests") != ""
	})
	began := time.Now()
	var mu sync.Mutex
	got := map[int]int{}
	var wg sync.WaitGroup
	for i := range 60 {
		h := []*house{here, there}[i%2]
		wg.Go(func() {
			r := h.chat("hello", "")
			mu.Lock()
			defer mu.Unlock()
			got[r.status]++
		})
	}
	wg.Wait()
	most := 18 + int(time.Since(began)/(3*time.Second)) + 1
	if got[200] < 17 || got[200] > most || got[200]+got[429] != 60 {
		t.Errorf("of 60 at two replicas: %v", got)
	}
}

func limitsRedis(t *testing.T, url string) *redis.Client {
	o, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	client := redis.NewClient(o)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// What resets are written like is what OpenAI writes, and Go reads.
func TestResetsReadAsOpenAIs(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 20 * time.Millisecond: "20ms", time.Second: "1s", 8640 * time.Millisecond: "8.64s", 6 * time.Minute: "6m0s", 90*time.Second + 5*time.Millisecond: "1m30.005s",
	} {
		if got := d.Round(time.Millisecond).String(); got != want {
			t.Errorf("%v is written %s, want %s", int64(d), got, want)
		}
	}
}
