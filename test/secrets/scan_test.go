// Package secrets proves from outside that keys stay where they belong: it runs a gateway through everything it can meet
// with keys and prompts that cannot be mistaken for anything else, collects all that the gateway writes, shows and
// stores, and searches it for them in every form they might take.
package secrets

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// canary is a text that must not be found, in all forms it might be found in.
type canary struct {
	name  string
	forms map[string][]byte
}

// newCanary is for a secret. parts are pieces of it that would give it away too.
func newCanary(name string, secret []byte, parts ...string) canary {
	c := canary{name: name, forms: map[string][]byte{}}
	c.add(secret)
	for i, p := range parts {
		c.forms[fmt.Sprint("part ", i)] = []byte(p)
	}
	return c
}

// textCanary is for one whose halves would tell as well.
func textCanary(name, prefix, random string) canary {
	return newCanary(name, []byte(prefix+random), random[:len(random)/2], random[len(random)/2:])
}

func (c canary) add(secret []byte) {
	put := func(form string, b []byte) { c.forms[form] = b }
	put("raw", secret)
	put("hex", []byte(hex.EncodeToString(secret)))
	put("HEX", bytes.ToUpper([]byte(hex.EncodeToString(secret))))
	back := bytes.Clone(secret)
	slices.Reverse(back)
	put("reversed", back)
	var url, lower, escaped strings.Builder
	for _, b := range secret {
		fmt.Fprintf(&url, "%%%02X", b)
		fmt.Fprintf(&lower, "%%%02x", b)
		fmt.Fprintf(&escaped, `\u%04x`, b)
	}
	put("url", []byte(url.String()))
	put("url lower", []byte(lower.String()))
	put("json", []byte(escaped.String()))
	for _, enc := range []struct {
		name string
		*base64.Encoding
	}{{"base64", base64.RawStdEncoding}, {"base64url", base64.RawURLEncoding}} {
		for shift := range 3 { // what stands before it moves it within the groups of three bytes
			b := enc.EncodeToString(append(make([]byte, shift), secret...))
			b = b[[]int{0, 2, 3}[shift] : len(b)-3] // the ends are mixed with what stands around
			put(fmt.Sprint(enc.name, " ", shift), []byte(b))
		}
	}
}

// in returns the forms in which c is in b.
func (c canary) in(b []byte) (found []string) {
	for _, form := range slices.Sorted(maps.Keys(c.forms)) {
		if bytes.Contains(b, c.forms[form]) {
			found = append(found, form)
		}
	}
	return found
}

// sink is a place where something could have been written, and what is there.
type sink struct {
	name string
	data []byte
}

// hit is a canary where it is not allowed.
type hit struct {
	canary, form, sink string
	around             string
}

// scan searches all sinks for all canaries. allowed says where one may be.
func scan(sinks []sink, canaries []canary, allowed func(canary, sink string) bool) (hits []hit) {
	for _, s := range sinks {
		for _, c := range canaries {
			if allowed != nil && allowed(c.name, s.name) {
				continue
			}
			for _, form := range c.in(s.data) {
				at := bytes.Index(s.data, c.forms[form])
				around := s.data[max(0, at-120):min(len(s.data), at+len(c.forms[form])+40)]
				hits = append(hits, hit{c.name, form, s.name, fmt.Sprintf("%q", around)})
			}
		}
	}
	return hits
}
