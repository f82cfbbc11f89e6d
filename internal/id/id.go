// Package id gives the things of the gateway types of their own, so that an org is never passed where a thread is
// meant, and makes new ids.
//
// Ids we make are a prefix, an underscore and the 32 hex digits of a UUIDv7: they sort by the time they were made, and
// tell nothing but that time. Thread ids may also be chosen by clients.
package id

import (
	"encoding/hex"
	"strconv"

	"github.com/google/uuid"
)

type (
	Org     string // org_…; lower-case letters, digits and _ only, so that a list of orgs may be joined with commas
	User    string // usr_…
	Team    string // team_…
	Key     string // the public part of an API key: 12 characters of base62
	Thread  string // thread_… or the client's own, see ValidThread
	Request string // req_…: one call, and its x-request-id
	Owner   string // own_…: one running process (an incarnation)
	Budget  string // bud_…
)

func fresh(prefix string) string {
	u, err := uuid.NewV7()
	if err != nil {
		panic(err) // only when the system has no randomness, and then nothing of ours is safe
	}
	return prefix + hex.EncodeToString(u[:])
}

func NewOrg() Org         { return Org(fresh("org_")) }
func NewUser() User       { return User(fresh("usr_")) }
func NewTeam() Team       { return Team(fresh("team_")) }
func NewThread() Thread   { return Thread(fresh("thread_")) }
func NewRequest() Request { return Request(fresh("req_")) }
func NewOwner() Owner     { return Owner(fresh("own_")) }
func NewBudget() Budget   { return Budget(fresh("bud_")) }

// MaxThread is the longest thread id, in bytes.
const MaxThread = 128

// ValidThread reports whether s may name a thread: 1 to 128 of [A-Za-z0-9._:-], but not ".", ".." or "new".
func ValidThread(s string) bool {
	if s == "" || len(s) > MaxThread || s == "." || s == ".." || s == "new" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == ':' || c == '-') {
			return false
		}
	}
	return true
}

// Message names the message at seq that call wrote. It is derived, not stored: the call's digits and the sequence.
func Message(call Request, seq int) string {
	s := string(call)
	if len(s) > 4 && s[:4] == "req_" {
		s = s[4:]
	}
	return "msg_" + s + "_" + strconv.Itoa(seq)
}
