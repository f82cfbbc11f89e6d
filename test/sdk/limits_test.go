package sdk

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

// A limit looks to OpenAI's SDK as OpenAI's own do: it reads what is left, raises what is refused, and, left to itself, waits
// for as long as it is told and is let in.
func TestLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "sqlite")
	w.gw.Must(t, 200, "PUT", "/api/limits", w.writer.Key, map[string]any{"scope": "org", "requests_per_minute": 20})
	type seen struct {
		at     time.Time
		status int
		wait   time.Duration
	}
	var all []seen
	ask := func(retries int) (http.Header, error) {
		all = nil
		client := openai.NewClient(
			option.WithBaseURL(w.gw.URL+"/v1"), option.WithAPIKey(w.writer.Key), option.WithMaxRetries(retries),
			option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
				resp, err := next(r)
				if err == nil {
					ms, _ := strconv.Atoi(resp.Header.Get("Retry-After-Ms"))
					all = append(all, seen{time.Now(), resp.StatusCode, time.Duration(ms) * time.Millisecond})
				}
				return resp, err
			}))
		var raw *http.Response
		_, err := client.Chat.Completions.New(context.Background(), openai.ChatCompletionNewParams{
			Model: "openai/gpt-4.1-mini", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hello")},
		}, option.WithResponseInto(&raw))
		if raw == nil {
			return nil, err
		}
		return raw.Header, err
	}
	header, err := ask(0)
	if err != nil || header.Get("x-ratelimit-limit-requests") != "20" || header.Get("x-ratelimit-remaining-requests") != "19" {
		t.Fatalf("%v %v", err, header)
	}
	if reset, err := time.ParseDuration(header.Get("x-ratelimit-reset-requests")); err != nil || reset <= 0 || reset > 3*time.Second {
		t.Errorf("reset in %v: %v", reset, err)
	}
	for range 20 { // until it has met the limit, and waited
		for err == nil {
			_, err = ask(0)
		}
		var e *openai.Error
		if !errors.As(err, &e) || e.StatusCode != 429 || e.Code != "rate_limit_exceeded" || e.Type != "rate_limit_error" {
			t.Fatalf("the SDK raised %v", err)
		}
		if _, err = ask(2); err != nil {
			t.Fatalf("left to itself it was refused: %v", err)
		}
		if len(all) == 1 { // the machine was so slow that there was room again
			continue
		}
		if len(all) != 2 || all[0].status != 429 || all[0].wait <= 0 || all[0].wait > 3*time.Second || all[1].at.Sub(all[0].at) < all[0].wait {
			t.Errorf("it waited otherwise than told: %+v", all)
		}
		return
	}
	t.Error("it never met the limit")
}
