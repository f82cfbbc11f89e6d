package upstreams

import (
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	maxForward    = 1 << 10         // bytes of one client's header that is passed on
	maxKept       = 256             // bytes of one header of a provider that is kept
	maxRetryAfter = 1 * time.Hour   // longer waits are cut to this
	maxPatience   = 400 * 24 * 3600 // seconds: what is more is no wait but a slip
)

// printable reports whether s is not empty and all printable ASCII.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return s != ""
}

// keep returns those of a provider's headers that a caller may see. Only printable ASCII is kept of them, and never the
// key.
func (c *Client) keep(h http.Header, key string) http.Header {
	kept := http.Header{}
	for name, values := range h {
		if len(values) == 0 || !listed(c.dialect.Answer, name) {
			continue
		}
		v := strings.Map(func(r rune) rune {
			if r < 0x20 || r > 0x7e {
				return -1
			}
			return r
		}, values[0])
		v = mask(v, key) // after what was dropped, and before what is cut: neither must leave the key, or half of it
		if len(v) > maxKept {
			v = v[:maxKept]
		}
		if v != "" {
			kept[name] = []string{v}
		}
	}
	return kept
}

func listed(names []string, name string) bool {
	for _, n := range names {
		if prefix, open := strings.CutSuffix(n, "*"); n == name || open && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func (c *Client) requestID(kept http.Header) string {
	for _, name := range c.dialect.IDs {
		if v := kept[name]; len(v) > 0 {
			return v[0]
		}
	}
	return ""
}

func isEventStream(h http.Header) bool {
	media, _, _ := mime.ParseMediaType(h.Get("Content-Type")) // a bad parameter is no reason to doubt the type
	return media == "text/event-stream"
}

func isJSON(h http.Header) bool {
	media, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	return media == "application/json" || strings.HasSuffix(media, "+json")
}

// retryAfter returns how long the provider asks to be left alone, 0 if it does not say, at most an hour. Read, in this
// order: retry-after-ms (OpenAI), Retry-After in seconds or as a date, X-RateLimit-Reset in milliseconds since 1970
// (OpenRouter).
func retryAfter(h http.Header, now time.Time) time.Duration {
	if ms, ok := number(h.Get("Retry-After-Ms")); ok {
		return patience(ms / 1000)
	}
	if v := h.Get("Retry-After"); v != "" {
		if s, ok := number(v); ok {
			return patience(s)
		}
		if t, err := http.ParseTime(v); err == nil {
			return patience(t.Sub(now).Seconds())
		}
	}
	return resetAfter(h.Get("X-Ratelimit-Reset"), now)
}

// resetAfter reads milliseconds since 1970.
func resetAfter(text string, now time.Time) time.Duration {
	ms, ok := number(text)
	if !ok || ms < 1e12 { // a smaller figure is not such a time, but a duration of another provider
		return 0
	}
	return patience(ms/1000 - float64(now.UnixMilli())/1000)
}

func number(text string) (float64, bool) {
	v, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	return v, err == nil && v == v
}

func patience(seconds float64) time.Duration {
	if !(seconds > 0) || seconds > maxPatience {
		return 0
	}
	return min(time.Duration(seconds*float64(time.Second)), maxRetryAfter)
}
