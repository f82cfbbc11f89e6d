package upstreamstest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/upstreams"
)

// Lists is how the subject's provider lists its models.
type Lists struct {
	Path  string                   // of the first list, below the base URL
	Entry func(name string) string // what the list has of a model, as JSON
	List  func(entries string) string

	Recorded string            // a file with a list that was recorded
	Want     []upstreams.Model // what it tells
}

// ModelEntry and ModelList are those of OpenAI's family.
func ModelEntry(name string) string {
	return `{"id":` + string(gjson.AppendJSONString(nil, name)) + `,"object":"model"}`
}

// ModelList is the list of these entries.
func ModelList(entries string) string { return `{"object":"list","data":[` + entries + `]}` }

func testList(t *testing.T, s Subject) {
	const good = "gpt-4.1-mini"
	list := func(names ...string) string {
		entries := make([]string, len(names))
		for i, name := range names {
			entries[i] = s.Lists.Entry(name)
		}
		return s.Lists.List(strings.Join(entries, ","))
	}
	serve := func(raw string) *Server {
		return Serve(t, func(c *Conn) {
			if c.Request.Method != "GET" || len(c.Body) > 0 || c.Request.Header.Get(s.wire().Authorization) != s.wire().credential() {
				t.Errorf("asked with\n%s%s", c.Head, c.Body)
			}
			if place(c) == s.Lists.Path {
				c.Send(raw)
			} else { // a list beside it
				c.Send(Reply("404 Not Found", `{"error":{"message":"no"}}`, JSON))
			}
			c.Close()
		})
	}
	names := func(raw string) []string {
		t.Helper()
		models, err := s.open(t, serve(raw)).List(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		got := []string{}
		for _, m := range models {
			got = append(got, m.ID)
		}
		return got
	}

	models, err := s.open(t, serve(Reply("200 OK", string(File(t, s.Lists.Recorded)), JSON))).List(t.Context(), key)
	if diff := cmp.Diff(s.Lists.Want, models); err != nil || diff != "" {
		t.Errorf("%v, what the recorded list tells (-want +got):\n%s", err, diff)
	}
	odd := []string{
		good, "", "two words", "a\nb", "a\u0000b", "<script>", `a"b`, "a'b", "a%2fb", "a?b", "a#b", "../x", "a/../b", "a//b", "/a", "a/", ".", "é", "a\u202eb",
		"x-" + Key, Key, strings.Repeat("m", 201), good, "ft:gpt-4.1:acme::AbC_1", "~anthropic/claude-latest", "meta/llama-3.1:free", "@x/y",
	}
	if diff := cmp.Diff([]string{good, "ft:gpt-4.1:acme::AbC_1", "~anthropic/claude-latest", "meta/llama-3.1:free", "@x/y"}, names(Reply("200 OK", list(odd...), JSON))); diff != "" {
		t.Errorf("of odd names (-want +got):\n%s", diff)
	}
	if got := names(Reply("200 OK", s.Lists.List(`7,null,[],"x",{},{"id":7,"name":7},{"id":["a"],"name":{}}`), JSON)); len(got) != 0 {
		t.Errorf("of entries that are none: %v", got)
	}
	if got := names(Reply("200 OK", list(), JSON)); len(got) != 0 {
		t.Errorf("of an empty list: %v", got)
	}
	many := make([]string, 6000)
	for i := range many {
		many[i] = fmt.Sprint("m", i)
	}
	if got := names(Reply("200 OK", list(many...), JSON)); len(got) != 5000 {
		t.Errorf("of a list without an end: %d", len(got))
	}

	for about, c := range map[string]struct {
		raw, code string
	}{
		"a 500":                {Reply("500 Error", `{"error":{"message":"`+Key+`"}}`, JSON), "upstream_error"},
		"a 401":                {Reply("401 No", `{"error":{"message":"`+Key+`"}}`, JSON), "upstream_auth"},
		"a 429":                {Reply("429 Slow", `{"error":{"message":"slow"}}`, JSON), "rate_limit_exceeded"},
		"a page":               {Reply("200 OK", "<html>", "Content-Type: text/html"), "upstream_protocol"},
		"no list":              {Reply("200 OK", `{"data":{},"models":7}`, JSON), "upstream_protocol"},
		"an array":             {Reply("200 OK", `[]`, JSON), "upstream_protocol"},
		"cut JSON":             {Reply("200 OK", list(good)[:9], JSON), "upstream_protocol"},
		"a broken connection":  {"", "upstream_reset"},
		"more than one may be": {Reply("200 OK", `{"a":"`+strings.Repeat("x", 9<<20)+`"}`, JSON), "upstream_oversize"},
	} {
		models, err := s.open(t, serve(c.raw)).List(t.Context(), key)
		if !fault.HasCode(err, c.code) || models != nil {
			t.Errorf("%s: %v, %v, want %s", about, models, err, c.code)
		}
		if out := fmt.Sprintf("%v|%#v", err, fault.From(err)); strings.Contains(out, Key) {
			t.Errorf("%s: the key came out: %s", about, out)
		}
	}

	gone := make(chan bool, 1)
	asked := make(chan bool, 1)
	u := s.open(t, Serve(t, func(c *Conn) {
		asked <- true
		gone <- c.Gone()
		c.Close()
	}))
	cause := errors.New("nobody waits any longer")
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := u.List(ctx, key)
		ended <- err
	}()
	<-asked
	cancel(cause)
	if err := <-ended; !errors.Is(err, cause) || !<-gone {
		t.Errorf("after its context: %v", err)
	}
}
