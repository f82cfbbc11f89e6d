package upstreams

import (
	"cmp"
	"net/http"
	"regexp"
	"strings"
	"time"

	"threadhub/internal/fault"
	"threadhub/openai"
)

// refused is the error of an answer with an error's status.
func (k *call) refused(status int, h http.Header, body []byte) error {
	return k.complain(status, parseComplaint(body), h)
}

// complain is what a client is told when the provider said no: with status, or inside an answer whose status was good,
// when status is 0 or what the error itself names. h may be nil.
//
// What the client can mend it is told in the provider's words and with its code. What only the org can mend (the key,
// its credit) is said in ours: the provider's words may quote the key. A client's own key is never at fault here, so no
// 401 comes out. What a good key may not do (where this gateway is, with an API that is gone, beyond what the key is for) is
// fault.Denied: another key or provider may.
func (k *call) complain(status int, said complaint, h http.Header) error {
	k.said = said
	if status == 0 {
		status = said.likely()
	}
	wait := retryAfter(h, time.Now())
	if wait == 0 {
		wait = said.wait
	}
	k.RetryAfter = wait
	code := said.word(k.key)
	name := k.client.dialect.Provider
	words := k.client.fit(said.message, k.key)
	told := func(kind fault.Kind, otherwise string) *fault.Error {
		return fault.New(kind, "%s: %s", name, cmp.Or(words, otherwise))
	}
	switch {
	case said.moderated && (status == http.StatusForbidden || status == http.StatusBadRequest):
		return k.pass(told(fault.Invalid, "the content was refused"), "content_policy_violation", said)
	case status == http.StatusForbidden && code == "model_not_found":
		return fault.New(fault.NotFound, "%s: the organisation's key may not use this model", name).WithCode(code).WithParam("model")
	case status == http.StatusForbidden && k.embeds && said.kind == "invalid_request_error" && code == "":
		said.param = "model" // so OpenAI answers for a model that does not embed: the key is as good as it was
		return k.pass(told(fault.Invalid, "the model does not embed"), code, said)
	case said.placed:
		return told(fault.Denied, "the provider does not answer where this gateway is").WithCode("permission_denied").NoRetry()
	case status == http.StatusForbidden && retired[said.kind]:
		return told(fault.Denied, "this API of the provider is retired").WithCode("permission_denied").NoRetry()
	case said.rejected || status == http.StatusUnauthorized:
		k.client.options.Log.Warn("the provider refused a key", "provider", name, "status", status, "upstream_id", k.UpstreamID)
		return k.client.keyRejected("was refused by the provider")
	case status == http.StatusForbidden:
		k.client.options.Log.Warn("the provider denied a key what it was asked for", "provider", name, "upstream_id", k.UpstreamID)
		return fault.New(fault.Denied, "%s: the organisation's key may not do this: %s", name, cmp.Or(words, "the provider gives no reason")).
			WithCode("permission_denied").NoRetry()
	case status == http.StatusPaymentRequired:
		return fault.New(fault.RateLimited, "%s: the organisation's account has no credit left for this request", name).
			WithCode("insufficient_quota").NoRetry()
	case status == http.StatusTooManyRequests && (code == "insufficient_quota" || said.kind == "insufficient_quota"):
		return fault.New(fault.RateLimited, "%s: the organisation's quota is used up", name).WithCode("insufficient_quota").NoRetry()
	case status == http.StatusTooManyRequests:
		return after(told(fault.RateLimited, "rate limit reached"), "rate_limit_exceeded", wait)
	case status == http.StatusBadRequest || status == http.StatusUnprocessableEntity:
		return k.pass(told(fault.Invalid, "the request was refused"), code, said)
	case status == http.StatusNotFound:
		return k.pass(told(fault.NotFound, "not found"), code, said)
	case status == http.StatusRequestEntityTooLarge:
		return k.pass(told(fault.TooLarge, "the request is too large"), code, said)
	case status == http.StatusGatewayTimeout:
		return after(told(fault.Timeout, "the provider ran out of time"), "upstream_timeout", wait)
	default: // 408, 409, 425, 5xx, the edges' 52x, and what nobody has documented
		return after(told(fault.Upstream, "the provider failed"), "upstream_error", wait)
	}
}

// retired are Perplexity's words for an API that is gone. No other key opens it again; the operator can choose the newer.
var retired = map[string]bool{"agent_api_migration_required": true, "chat_completions_not_available": true}

func (c *Client) keyRejected(why string) error {
	return fault.New(fault.Upstream, "%s: the organisation's key %s; an admin can set another", c.dialect.Provider, why).
		WithCode("upstream_auth").NoRetry()
}

// pass gives err the code and the param that the provider named.
func (k *call) pass(err error, code string, said complaint) error {
	return fault.From(err).WithCode(code).WithParam(token(mask(said.param, k.key), 200))
}

func after(err error, code string, wait time.Duration) error {
	return fault.From(err).WithCode(code).After(wait)
}

// word is the provider's word for what is wrong: its code, or what it has instead; nothing that holds the key.
func (said complaint) word(key string) string {
	code := said.code
	if code == "" {
		code = said.reason
	}
	return token(mask(code, key), 64)
}

// likely is the status that an error inside an answer would have had.
func (said complaint) likely() int {
	if said.status != 0 {
		return said.status
	}
	for _, word := range []string{said.code, said.reason, said.kind} {
		if status, ok := statusOf[word]; ok {
			return status
		}
	}
	return http.StatusBadGateway
}

// statusOf holds the words of OpenAI (code, type) and of OpenRouter (error_type) that have a status of their own.
var statusOf = map[string]int{
	"authentication":                       http.StatusUnauthorized,
	"content_policy_violation":             http.StatusBadRequest,
	"context_length_exceeded":              http.StatusBadRequest,
	"image_too_large":                      http.StatusBadRequest,
	"image_too_small":                      http.StatusBadRequest,
	"insufficient_quota":                   http.StatusTooManyRequests,
	"invalid_api_key":                      http.StatusUnauthorized,
	"invalid_image":                        http.StatusBadRequest,
	"invalid_prompt":                       http.StatusBadRequest,
	"invalid_request":                      http.StatusBadRequest,
	"invalid_request_error":                http.StatusBadRequest,
	"max_tokens_exceeded":                  http.StatusBadRequest,
	"model_not_found":                      http.StatusNotFound,
	"not_found":                            http.StatusNotFound,
	"payload_too_large":                    http.StatusRequestEntityTooLarge,
	"payment_required":                     http.StatusPaymentRequired,
	"permission_denied":                    http.StatusForbidden,
	"rate_limit_exceeded":                  http.StatusTooManyRequests,
	"requests":                             http.StatusTooManyRequests,
	"string_too_long":                      http.StatusBadRequest,
	"timeout":                              http.StatusGatewayTimeout,
	"token_limit_exceeded":                 http.StatusBadRequest,
	"tokens":                               http.StatusTooManyRequests,
	"unprocessable":                        http.StatusUnprocessableEntity,
	"unsupported_image_format":             http.StatusBadRequest,
	"unsupported_parameter":                http.StatusBadRequest,
	"unsupported_value":                    http.StatusBadRequest,
	"image_not_found":                      http.StatusBadRequest,
	"image_download_failed":                http.StatusBadRequest,
	"precondition_failed":                  http.StatusBadRequest,
	"refusal":                              http.StatusBadRequest,
	"unsupported_country_region_territory": http.StatusForbidden,
}

// token returns s if it looks like a name and not like a key: printable, without spaces or quotes, and no longer than
// limit; else nothing.
func token(s string, limit int) string {
	if len(s) > limit || !printable(s) || strings.ContainsAny(s, " \"'<>\\") || openai.Scrub(s) != s {
		return ""
	}
	return s
}

// links are addresses in what a provider says: of its documentation, at best.
var links = regexp.MustCompile(`(?i)https?://[^\s"'<>]*`)

// fit is scrub for a client: it is not told either where this gateway asks.
func (c *Client) fit(text, key string) string {
	text = links.ReplaceAllString(text, "(link)")
	return scrub(strings.ReplaceAll(text, c.base.Host, "(upstream)"), key)
}

const masked = "[secret]"

// shortest is the length of a key, in bytes, that can be told from a word.
const shortest = 8

// mask takes the key out of text.
func mask(text, key string) string {
	if len(key) < shortest {
		return text
	}
	return strings.ReplaceAll(text, key, masked)
}

// scrub makes a provider's words fit to be passed on: without the key, and as openai.Scrub says. Nothing is left of them
// where the key would not be found in them.
func scrub(text, key string) string {
	if len(key) < shortest {
		return ""
	}
	return openai.Scrub(mask(text, key))
}
