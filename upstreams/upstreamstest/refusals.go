package upstreamstest

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/seal"
	"threadhub/upstreams"
)

// testRefusals holds what is the same at every provider; recorded answers stand with each.
func testRefusals(t *testing.T, s Subject) {
	for status, want := range map[int]struct {
		kind fault.Kind
		code string
	}{
		400: {fault.Invalid, ""},
		401: {fault.Upstream, "upstream_auth"},
		402: {fault.RateLimited, "insufficient_quota"},
		403: {fault.Denied, "permission_denied"},
		404: {fault.NotFound, ""},
		405: {fault.Upstream, "upstream_error"},
		408: {fault.Upstream, "upstream_error"},
		409: {fault.Upstream, "upstream_error"},
		413: {fault.TooLarge, ""},
		418: {fault.Upstream, "upstream_error"},
		422: {fault.Invalid, ""},
		429: {fault.RateLimited, "rate_limit_exceeded"},
		500: {fault.Upstream, "upstream_error"},
		502: {fault.Upstream, "upstream_error"},
		503: {fault.Upstream, "upstream_error"},
		504: {fault.Timeout, "upstream_timeout"},
		520: {fault.Upstream, "upstream_error"},
		529: {fault.Upstream, "upstream_error"},
		599: {fault.Upstream, "upstream_error"},
	} {
		for _, body := range []string{"", "{}", "null", "[]", `{"error":null}`, `{"error":[]}`, `{"error":{"message":7,"code":{},"type":[],"param":1,"metadata":"x"}}`, `{"error":"text"}`, "<html>", "\xff{", `{"error":{`} {
			kind := JSON
			if strings.HasPrefix(body, "<") {
				kind = "Content-Type: text/html"
			}
			_, err := s.open(t, Replies(t, Reply(fmt.Sprint(status, " Status"), body, kind))).Chat(t.Context(), ask(status%2 == 0))
			wantFault(t, fmt.Sprintf("%d with %q", status, body), err, want.kind, want.code)
			if f := upstreams.FailureOf(err); f.Status != status || !f.Sent {
				t.Errorf("%d with %q: the failure says %d, sent %v", status, body, f.Status, f.Sent)
			}
			if m := fault.From(err).Message; m == "" || strings.ContainsAny(m, "<{[") {
				t.Errorf("%d with %q: the message is %q", status, body, m)
			}
		}
	}

	// What a key may not do, or nobody where this gateway is, the provider says in its own words.
	for _, body := range []string{
		`{"error":{"code":"unsupported_country_region_territory","message":"not here","type":"request_forbidden"}}`,
		`{"error":{"code":403,"message":"not here","metadata":{"error_type":"permission_denied"}}}`,
	} {
		_, err := s.open(t, Replies(t, Reply("403 Forbidden", body, JSON))).Chat(t.Context(), ask(false))
		Fault{Kind: fault.Denied, Code: "permission_denied", Message: "not here", Final: true}.check(t, body, err)
	}

	// Where a provider is, and where it sends people to read, is no business of clients.
	server := Serve(t, func(c *Conn) {
		c.Send(Reply("400 Bad Request", `{"error":{"message":"see https://provider.example/docs?a=b and http://`+c.Request.Host+`/v1/x, or ask `+c.Request.Host+` again; 0HTTPS://x http://"}}`, JSON))
	})
	_, err := s.open(t, server).Chat(t.Context(), ask(false))
	if m := fault.From(err).Message; !strings.HasSuffix(m, ": see (link) and (link) or ask (upstream) again; 0(link) (link)") {
		t.Errorf("the message is %q", m)
	}

	for header, want := range map[string]time.Duration{
		"":                                       0,
		"Retry-After: 7":                         7 * time.Second,
		"Retry-After: 1.5":                       1500 * time.Millisecond,
		"Retry-After: 86400":                     time.Hour,
		"Retry-After: 0":                         0,
		"Retry-After: -5":                        0,
		"Retry-After: soon":                      0,
		"Retry-After: NaN":                       0,
		"Retry-After: 1e300":                     0,
		"retry-after-ms: 1234":                   1234 * time.Millisecond,
		"retry-after-ms: 1234\r\nretry-after: 2": 1234 * time.Millisecond,
		"X-RateLimit-Reset: 6m0s":                0,
		"X-RateLimit-Reset: 5":                   0,
		"Retry-After: Wed, 21 Oct 2015 07:28:00 GMT": 0,
		"Retry-After: Wed, 21 Oct 2395 07:28:00 GMT": 0,
	} {
		raw := Reply("429 Too Many Requests", `{"error":{"message":"slow down"}}`, append([]string{JSON}, nonEmpty(header)...)...)
		_, err := s.open(t, Replies(t, raw)).Chat(t.Context(), ask(false))
		if f := upstreams.FailureOf(err); f.RetryAfter != want || fault.From(err).Retry != want {
			t.Errorf("%q: wait %v and say %v, want %v", header, f.RetryAfter, fault.From(err).Retry, want)
		}
	}
	soon := time.Now().Add(90 * time.Second)
	for body, most := range map[string]time.Duration{
		`{"error":{"message":"slow","availability":{"retry_after":10}}}`:                                                10 * time.Second,
		`{"error":{"message":"slow","availability":{"retry_after":"10"}}}`:                                              0,
		fmt.Sprintf(`{"error":{"message":"slow","metadata":{"headers":{"X-RateLimit-Reset":"%d"}}}}`, soon.UnixMilli()): 91 * time.Second,
	} {
		_, err := s.open(t, Replies(t, Reply("429 Slow", body, JSON))).Chat(t.Context(), ask(false))
		if got := fault.From(err).Retry; got > most || got < most-31*time.Second {
			t.Errorf("%s: wait %v, want about %v", body, got, most)
		}
	}
	for _, header := range []string{"Retry-After: " + soon.UTC().Format(http.TimeFormat), fmt.Sprintf("X-RateLimit-Reset: %d", soon.UnixMilli())} {
		_, err := s.open(t, Replies(t, Reply("503 Busy", "", header))).Chat(t.Context(), ask(false))
		if got := fault.From(err).Retry; got < 60*time.Second || got > 91*time.Second {
			t.Errorf("%q: wait %v, want a minute and a half", header, got)
		}
	}
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// testSecrets has the provider send the key back in every place it can, and looks for it in all that comes out.
func testSecrets(t *testing.T, s Subject) {
	masked := `sk-canary-********W6mK`
	bodies := []string{
		`{"error":{"message":"Incorrect API key provided: ` + Key + `.","type":"invalid_request_error","param":"` + Key + `","code":"` + Key + `"}}`,
		`{"error":{"message":"Incorrect API key provided: ` + masked + `."}}`,
		`{"error":"` + Key + `"}`,
		`{"error":{"message":"Provider returned error","code":400,"metadata":{"provider_name":"` + Key + `","raw":"{\"error\":{\"message\":\"bad key ` + Key + `\"}}"}}}`,
	}
	check := func(about string, err error) {
		t.Helper()
		f := upstreams.FailureOf(err)
		out := fmt.Sprintf("%v|%+v|%#v|%v|%+v|%s|%s|%s", err, err, fault.From(err).Message, f.Header, f.UpstreamID, fault.From(err).Code, fault.From(err).Param, f.Error())
		for _, secret := range []string{Key, masked, "canary", "W6mK"} {
			if strings.Contains(out, secret) {
				t.Errorf("%s: the key came out: %s", about, out)
			}
		}
	}
	for _, status := range []string{"400 Bad", "401 Unauthorized", "403 Forbidden", "404 Not Found", "413 Large", "422 No", "429 Slow", "500 Error", "504 Late"} {
		for _, body := range bodies {
			_, err := s.open(t, Replies(t, Reply(status, body, JSON, s.headerOf(Key), "Retry-After: "+Key))).Chat(t.Context(), ask(false))
			check(status+" "+body, err)
		}
	}
	for about, header := range map[string]string{"odd bytes": Key[:6] + "\xff" + Key[6:], "the cut": strings.Repeat("x", 244) + Key} {
		_, err := s.open(t, Replies(t, Reply("429 Slow", "{}", JSON, s.headerOf(header)))).Chat(t.Context(), ask(false))
		check("in a header, around "+about, err)
	}
	for _, body := range bodies {
		_, err := s.open(t, Replies(t, Reply("200 OK", body, JSON))).Chat(t.Context(), ask(true))
		check("in a 200: "+body, err)
		_, err = listen(t, s.open(t, Replies(t, EventStream+Data(body))))
		check("in a stream: "+body, err)
	}

	for _, raw := range []string{"220 " + Key + "\r\n\r\n", "HTTP/1.1 200 OK\r\n" + Key + "\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: " + Key + "\r\n\r\n"} {
		_, err := s.open(t, Replies(t, raw)).Chat(t.Context(), ask(false))
		check("in no HTTP: "+raw, err)
	}

	server := Serve(t, func(c *Conn) { t.Errorf("a key that cannot be sent was sent: %q", c.Head) })
	for _, key := range []string{"", "sk-canary\r\nX-Evil: 1", "sk-canary\x00", "sk-canaryé"} {
		r := ask(false)
		r.Key = seal.NewSecret(key)
		_, err := s.open(t, server).Chat(t.Context(), r)
		wantFault(t, fmt.Sprintf("key %q", key), err, fault.Upstream, "upstream_auth")
		check("a key that cannot be sent", err)
		if upstreams.FailureOf(err).Sent {
			t.Error("the failure says that the request was sent")
		}
	}
}

// headerOf is the header with the provider's name for the request.
func (s Subject) headerOf(id string) string { return cmp.Or(s.ID, "X-Request-Id") + ": " + id }

func testTLS(t *testing.T, s Subject) {
	protocols := make(chan string, 10)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protocols <- r.Proto
		switch r.Header.Get("X-Client-Request-Id") {
		case "stream":
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, Data(s.delta("one")), s.done())
		case "reset":
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, Data(s.delta("one")))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case "hang":
			w.Header().Set("Content-Type", "text/event-stream")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			protocols <- "ended"
		default:
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, s.answer("hello"))
		}
	}))
	server.EnableHTTP2 = true
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	trusted := x509.NewCertPool()
	trusted.AddCert(server.Certificate())
	plain := Serve(t, func(*Conn) {})
	u := s.open(t, plain, func(o *upstreams.Options) { o.BaseURL, o.RootCAs = server.URL+"/v1/", trusted })

	if a, err := u.Chat(t.Context(), ask(false)); err != nil || !s.answered(a.Body, s.answer("hello"), "hello") {
		t.Fatal(err)
	}
	if p := <-protocols; p != "HTTP/2.0" {
		t.Errorf("asked in %s", p)
	}
	stream := func(tag string) upstreams.Stream {
		r := ask(true)
		r.Attempt = tag
		a, err := u.Chat(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		<-protocols
		return a.Stream
	}
	st := stream("stream")
	if got, err := drain(st); !s.heard(got, "one") || !errors.Is(err, io.EOF) {
		t.Errorf("a stream over HTTP/2: %q, %v", got, err)
	}
	st.Close()
	st = stream("reset")
	_, err := drain(st)
	wantFault(t, "a reset over HTTP/2", err, fault.Upstream, "upstream_reset")
	st.Close()
	st = stream("hang")
	st.Close()
	if p := <-protocols; p != "ended" {
		t.Errorf("closing a stream over HTTP/2 left it open: %s", p)
	}

	untrusting := s.open(t, plain, func(o *upstreams.Options) { o.BaseURL = server.URL })
	_, err = untrusting.Chat(t.Context(), ask(false))
	wantFault(t, "a certificate nobody trusts", err, fault.Upstream, "upstream_unreachable")
	if upstreams.FailureOf(err).Sent {
		t.Error("the failure says that the request was sent to a stranger")
	}
	wrong := s.open(t, plain, func(o *upstreams.Options) {
		o.BaseURL, o.RootCAs = strings.Replace(server.URL, "127.0.0.1", "localhost", 1), trusted
	})
	_, err = wrong.Chat(t.Context(), ask(false))
	wantFault(t, "a certificate of another host", err, fault.Upstream, "upstream_unreachable")
}

func testOptions(t *testing.T, s Subject) {
	if _, err := s.New(upstreams.Options{}); err != nil {
		t.Errorf("the zero options: %v", err)
	}
	for _, base := range []string{"example.com/v1", "ftp://example.com", "https://", "https://user:hunter2@example.com", "https://example.com/v1?key=x", "https://example.com/#x", "https://exa mple.com", ":"} {
		if _, err := s.New(upstreams.Options{BaseURL: base}); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", base, err)
		}
	}
	for _, path := range []string{"", "/", "//"} {
		asked := make(chan string, 1)
		server := Serve(t, func(c *Conn) {
			asked <- c.Request.RequestURI
			c.Send(Reply("200 OK", s.answer("x"), JSON))
		})
		u := s.open(t, server, func(o *upstreams.Options) { o.BaseURL += path })
		if _, err := u.Chat(t.Context(), ask(false)); err != nil {
			t.Fatal(err)
		}
		if got := <-asked; got != "/v1/"+s.wire().Path {
			t.Errorf("a base URL that ends in %q asks at %s", path, got)
		}
	}
}
