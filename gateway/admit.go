package gateway

import (
	"bytes"
	"strings"

	"threadhub/internal/fault"
	"threadhub/internal/seedbug"
	"threadhub/orgs"
)

// admit is everything that is asked of a request before its handler: the step authenticate, and rules that hold for all
// routes alike.
func (x *request) admit() error {
	if err := x.acceptable(); err != nil {
		return err
	}
	if x.route.Needs == Open {
		return nil
	}
	if err := x.authenticate(); err != nil {
		return err
	}
	x.line.org, x.line.key = x.caller.Org, x.caller.Key
	if seedbug.On("log-key") {
		x.note("authorization", x.header("Authorization"))
	}
	if err := x.inOwnOrg(); err != nil { // before the role: what is foreign is not there, whoever asks
		return err
	}
	err := suffices(x.caller, x.route)
	if err != nil && x.route.foreign != nil {
		if foreign := x.route.foreign(x.g, x); foreign != nil {
			return foreign
		}
	}
	return err
}

// inOwnOrg refuses, as the common 404, a URL that names another org than the caller's, in its path or its query.
func (x *request) inOwnOrg() error {
	for i, name := range x.route.names {
		if name == "org" {
			if err := x.ownOrg(x.params[i]); err != nil {
				return err
			}
		}
	}
	if x.route.isV1() {
		return nil
	}
	for name, value := range x.rc.QueryArgs().All() {
		if string(name) == "org_id" {
			if err := x.ownOrg(string(value)); err != nil {
				return err
			}
		}
	}
	if x.route.Method == "DELETE" { // what is to go is in the URL: a body can only say whose it is
		return x.fields().err
	}
	return nil
}

// ownOrg reports, as the common 404, an org that is not the caller's.
func (x *request) ownOrg(org string) error {
	if org != string(x.caller.Org) {
		return notFound()
	}
	return nil
}

// may reports whether a role suffices. An unknown role may nothing.
func may(role orgs.Role, need Permission) bool {
	switch role {
	case orgs.Admin:
		return true
	case orgs.Member:
		return need <= Write
	case orgs.Viewer:
		return need <= Read
	default:
		return need == Open
	}
}

// acceptable checks what can be said without knowing the caller.
func (x *request) acceptable() error {
	h := &x.rc.Request.Header
	if e := h.Peek("Content-Encoding"); len(e) > 0 && !bytes.EqualFold(e, []byte("identity")) {
		return fault.New(fault.MediaType, "request bodies must not be compressed").WithCode("unsupported_content_encoding").
			WithParam("Content-Encoding").NoRetry()
	}
	switch x.route.Method {
	case "POST", "PUT", "PATCH":
		if t := h.ContentType(); len(t) > 0 && !isJSON(string(t)) {
			return fault.New(fault.MediaType, "the body must be application/json").WithCode("unsupported_media_type").
				WithParam("Content-Type").NoRetry()
		}
	}
	if x.route.Method == "POST" && !x.route.repeats && len(h.PeekAll("Idempotency-Key")) > 0 {
		return fault.New(fault.Invalid, "Idempotency-Key is not supported here; send the request without it").
			WithCode("not_supported").WithParam("Idempotency-Key").NoRetry()
	}
	return nil
}

func isJSON(contentType string) bool {
	t, _, _ := strings.Cut(contentType, ";")
	t = strings.ToLower(strings.TrimSpace(t))
	return t == "application/json" || strings.HasPrefix(t, "application/") && strings.HasSuffix(t, "+json")
}

// authenticate finds the one key the request carries and asks whose it is.
func (x *request) authenticate() error {
	token, err := x.token()
	if err != nil {
		return err
	}
	if x.g.opts.Orgs == nil {
		return fault.New(fault.Unavailable, "there is nobody to check keys").WithCode("unavailable")
	}
	x.caller, err = x.g.opts.Orgs.AuthenticateWith(x.ctx, token, x.leave)
	return err
}

const maxToken = 512 // bytes; ours have about sixty

// token reads the key from whichever header carries it. All carriers are read here and nowhere else, so that none of
// them can be overlooked.
func (x *request) token() (string, error) {
	if err := x.keyInQuery(); err != nil {
		return "", err
	}
	h := &x.rc.Request.Header
	var token, scheme string
	found := 0
	for _, carrier := range []string{"Authorization", "X-Api-Key", "Api-Key"} {
		for _, v := range h.PeekAll(carrier) {
			found++
			token, scheme = string(v), "Bearer"
			if carrier == "Authorization" {
				scheme, token, _ = strings.Cut(token, " ")
				token = strings.TrimLeft(token, " ")
			}
		}
	}
	switch {
	case found > 1:
		return "", fault.New(fault.Invalid, "the request carries more than one API key").WithCode("multiple_api_keys").NoRetry()
	case found == 1 && scheme != "" && !strings.EqualFold(scheme, "Bearer"):
		return "", unauthorized("the Authorization header must be of the scheme Bearer")
	case token == "":
		return "", fault.New(fault.Unauthorized, "no API key was sent; send it as Authorization: Bearer th_…").
			WithCode("missing_api_key").NoRetry()
	case len(token) > maxToken:
		return "", unauthorized("the API key is not one of ours")
	}
	for i := range len(token) {
		if token[i] <= 0x20 || token[i] >= 0x7f {
			return "", fault.New(fault.Invalid, "the API key holds a byte that no key has").WithCode("malformed_api_key").NoRetry()
		}
	}
	return token, nil
}

func unauthorized(message string) error {
	return fault.New(fault.Unauthorized, "%s", message).WithCode("invalid_api_key").NoRetry()
}

// keyInQuery refuses keys in the URL: URLs get logged on the way.
func (x *request) keyInQuery() error {
	for name, value := range x.rc.QueryArgs().All() {
		switch strings.ToLower(string(name)) {
		case "key", "api_key", "api-key", "apikey", "x-api-key", "access_token", "auth_token", "token", "authorization":
		default:
			if !bytes.HasPrefix(value, []byte("th_")) {
				continue
			}
		}
		return fault.New(fault.Invalid, "an API key must not be sent in the URL; send it as Authorization: Bearer th_…").
			WithCode("api_key_in_query").NoRetry()
	}
	return nil
}
