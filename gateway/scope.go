package gateway

import (
	"slices"
	"strings"

	"threadhub/internal/fault"
	"threadhub/orgs"
	routing "threadhub/router"
)

// What an API key may be used for is less than its user may do, never more: it may be for reading alone, for some
// providers, for some models.

// mayWrite refuses a key that is for reading alone what its user's role would allow.
func mayWrite(c orgs.Caller, needs Permission) error {
	if !c.ReadOnly || needs <= Read {
		return nil
	}
	return fault.New(fault.Denied, "this API key is for reading alone").WithCode("permission_denied").NoRetry()
}

// inScope refuses a target that the caller's key is not good for.
func inScope(c orgs.Caller, t routing.Target) error {
	if reaches(c, t) {
		return nil
	}
	return fault.New(fault.Denied, "this API key may not be used for the model %s of %s", t.Model, t.Provider).
		WithCode("model_not_allowed").WithParam("model").NoRetry()
}

// reaches reports whether the caller's key is good for a target. Patterns are held against the model's name, with and
// without its provider in front; one that begins with a provider is for that provider alone.
func reaches(c orgs.Caller, t routing.Target) bool {
	if !mayUse(c, t.Provider) {
		return false
	}
	return len(c.Models) == 0 || slices.ContainsFunc(c.Models, func(pattern string) bool {
		at, _, _ := strings.Cut(pattern, "/")
		elsewhere := at != t.Provider && slices.Contains(providers, at)
		return !elsewhere && routing.Matches(pattern, t.Model) || routing.Matches(pattern, t.Provider+"/"+t.Model)
	})
}

func mayUse(c orgs.Caller, provider string) bool {
	return len(c.Providers) == 0 || slices.Contains(c.Providers, provider)
}

// inReach is the first of targets that the caller's key is good for; the first of all if it is for none.
func inReach(c orgs.Caller, targets []routing.Target) routing.Target {
	for _, t := range targets {
		if reaches(c, t) {
			return t
		}
	}
	return targets[0]
}

// unrestricted refuses to make or change keys with a key that may do less than they might: nobody gets more out of a key
// than was put into it. Whatever else admins may do, suffices refuses to one that is good for less than everything.
func (x *request) unrestricted() error {
	if !x.caller.Restricted() {
		return nil
	}
	return restricted("is restricted, or expires: it can make and change no other")
}

func restricted(why string) error {
	return fault.New(fault.Denied, "this API key %s", why).
		WithCode("key_restricted").NoRetry()
}
