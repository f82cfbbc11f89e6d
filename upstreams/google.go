package upstreams

import (
	"net/http"
	"regexp"
	"strings"
	"time"
)

// What Google puts under one word for the status, and only its message tells apart: where the request came from, how the
// organisation pays, and that its key is no good.
var (
	place   = regexp.MustCompile(`(?i)\b(location|country|region)\b`)
	billing = regexp.MustCompile(`(?i)\bbilling\b`)
	badKey  = regexp.MustCompile(`(?i)^API key (not valid|not found|expired)\b`)
)

// google adds what Google says beside the message (google.rpc.Status): its word for the status, and details by type. It
// has no headers for how long to wait, and answers a bad key with 400.
func (said *complaint) google(status string, details []any) {
	said.message = strings.TrimSpace(said.message)
	if status == "NOT_FOUND" && strings.HasPrefix(said.message, "models/") {
		said.code, said.param = "model_not_found", "model"
	}
	if status == "INVALID_ARGUMENT" && badKey.MatchString(said.message) { // it does not always add the reason
		said.rejected = true
	}
	if status == "FAILED_PRECONDITION" {
		said.placed = place.MatchString(said.message)
		said.rejected = !said.placed && billing.MatchString(said.message)
	}
	for _, d := range details {
		detail, _ := d.(map[string]any)
		_, kind, _ := strings.Cut(word(detail["@type"]), "/google.rpc.")
		switch kind {
		case "ErrorInfo":
			said.rejected = said.rejected || strings.HasPrefix(word(detail["reason"]), "API_KEY_")
		case "RetryInfo":
			if d, err := time.ParseDuration(word(detail["retryDelay"])); err == nil {
				said.wait = max(said.wait, patience(d.Seconds()))
			}
		case "QuotaFailure":
			said.quota(detail["violations"])
		}
	}
	if status == "RESOURCE_EXHAUSTED" && said.status == 0 {
		said.status = http.StatusTooManyRequests
	}
}

// quota reads which quotas are used up. One for the day is gone for today: the wait that is named is of no use then.
func (said *complaint) quota(violations any) {
	list, _ := violations.([]any)
	for _, v := range list {
		violation, _ := v.(map[string]any)
		if strings.Contains(word(violation["quotaId"]), "PerDay") {
			said.kind = "insufficient_quota"
		}
	}
}

// GoogleFamily names the models of Google's, wherever they are asked, that understand each other's signatures: "gemini-3"
// for gemini-3.8-flash, "gemma" for all of Gemma. A name that tells no generation (gemini-flash-latest) is a family of its
// own.
func GoogleFamily(model string) string {
	if strings.HasPrefix(model, "gemma") {
		return "gemma"
	}
	rest, ok := strings.CutPrefix(model, "gemini-")
	digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
	if !ok || digits == 0 {
		return model
	}
	return "gemini-" + rest[:digits]
}
