package faults

import (
	"bytes"
	"cmp"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"threadhub/test/rig"
)

// bug is one that internal/seedbug plants, and what must catch it: a row, or the tests of a package that match a pattern.
type bug struct {
	name, what string
	row        string
	tests      [2]string
	seed       uint64 // with which the row is played, where that matters
}

var bugs = []bug{
	{name: "drop-record", what: "the second transaction is not made", row: "N1"},
	{name: "settle-twice", what: "a call is charged twice", row: "N1"},
	{name: "done-early", what: "[DONE] is sent before the record", row: "G2b"},
	{name: "open-late", what: "the provider is asked before the first transaction is through", row: "P1"},
	{name: "session-org", what: "the org is set for the session, not for the transaction", tests: [2]string{"./internal/db", "TestOneConnectionForManyOrgs"}},
	{name: "switch-midstream", what: "another attempt is made after the first byte", row: "U4"},
	{name: "head-at-once", what: "a stream's head is sent before its first event", row: "U13"},
	{name: "retry-billed", what: "what may have been billed is asked again", row: "U3"},
	{name: "ask-twice", what: "each provider is asked twice", row: "N1"},
	{name: "log-key", what: "the caller's key is logged", row: "N1"},
	{name: "log-content", what: "a request is logged", row: "N1"},
	{name: "key-in-header", what: "a header tells the provider's key", row: "N1"},
	{name: "forward-key", what: "the provider is given the caller's key", row: "N1"},
	{name: "no-turn", what: "the turn of a thread is not taken", row: "N1"},
	{name: "keep-turn", what: "the turn of a thread is not given back", row: "N1"},
	{name: "no-fence", what: "a decision about a thread that has moved on is carried out", tests: [2]string{"./calls", "TestStaleDecisionIsRefused"}},
	{name: "refusal-unseen", what: "a late owner does not notice that its record is refused", row: "G16"},
	{name: "no-late-line", what: "a late owner's true cost is forgotten", row: "G16"},
	{name: "late-twice", what: "a late owner's true cost counts twice", tests: [2]string{"./gateway", "TestSchedules$"}},
	{name: "no-epoch", what: "a late owner's record is taken after another has taken the call over", tests: [2]string{"./gateway", "TestMemoryIsLikeTheStore"}},
	{name: "rob-the-living", what: "calls of living processes are settled", row: "C10"},
	{name: "swallow-cut", what: "a cut stream ends well", row: "U5"},
	{name: "drop-chunk", what: "the last piece is not passed on", row: "N1"},
	{name: "same-event-id", what: "events have the same id", row: "N1"},
	{name: "free-failures", what: "a call that failed has no line", row: "U2"},
	{name: "surely-unbilled", what: "nobody says that a provider may have billed", row: "U7"},
	{name: "price-off", what: "a cost is off by the smallest unit", row: "N1"},
	{name: "always-estimate", what: "usage is estimated though it was told", row: "N1"},
	{name: "401-when-down", what: "a key that cannot be looked up is said to be bad", row: "R11"},
	{name: "needs-redis", what: "without Redis a change fails", row: "R1"},
	{name: "limits-open", what: "without Redis there are no limits", row: "R1"},
	{name: "limits-shut", what: "without Redis limits refuse everybody", row: "R2"},
	{name: "no-claims", what: "an Idempotency-Key is ignored", row: "C10"},
	{name: "any-body", what: "an Idempotency-Key answers another request", row: "C10"},
	{name: "no-heartbeat", what: "a silent stream is silent", row: "U6"},
	{name: "no-idle-limit", what: "a stalled stream is waited for", row: "U6"},
	{name: "no-line-limit", what: "a line may be of any length", row: "U10"},
	{name: "leak-upstream", what: "a departed client's provider is listened to", row: "C1"},
	{name: "drain-at-once", what: "a shutdown cuts what runs", row: "G4"},
	{name: "ready-while-draining", what: "a gateway that shuts down says that it is ready", row: "G4"},
	{name: "no-recover", what: "a panic ends the process", row: "G10", seed: 1}, // in the handler: a relay has a recover of its own
	{name: "leak-inflight", what: "requests are counted as under way for ever", row: "P10"},
	{name: "no-breaker", what: "a frozen Postgres is waited for by each call", row: "P6"},
	{name: "keep-buffer", what: "a request's buffer is used after it was given back", tests: [2]string{"./gateway", "TestWhatIsKeptOfARequestIsItsOwn"}},
	{name: "hold-kept", what: "what a call has cost is added to what it held", tests: [2]string{"./metering", "TestBudgetsModel"}},
	{name: "failed-keeps-hold", what: "a call that failed keeps its hold", tests: [2]string{"./metering", "TestBudgetsModel"}},
	{name: "blind-group", what: "calls of one commit do not see each other's holds", tests: [2]string{"./metering", "TestBudgetsModel"}},
	{name: "no-rerun", what: "a commit without an answer is not made again", row: "P2"},
}

// byRotation is how many of them a short run plants: other ones each day.
const byRotation = 3

// Each bug is caught by what must catch it.
func TestBugs(t *testing.T) {
	list := bugs
	if !soak() && flagRun() == "" {
		day := time.Now().YearDay()
		list = nil
		for i := range byRotation {
			list = append(list, bugs[(day*byRotation+i)%len(bugs)])
		}
		t.Logf("those of day %d; THREADHUB_SOAK plants all %d", day, len(bugs))
	}
	s := newSites(t)
	for _, b := range list {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			wrong := b.caught(t, s)
			if len(wrong) == 0 {
				t.Errorf("%s, and %s%v did not see it", b.what, b.row, b.tests)
				return
			}
			t.Logf("%s: %.300s", b.what, wrong[0])
		})
	}
}

// flagRun is what of -run names bugs.
func flagRun() string {
	for _, a := range os.Args {
		if pattern, ok := strings.CutPrefix(a, "-test.run="); ok {
			_, name, _ := strings.Cut(pattern, "/")
			return name
		}
	}
	return ""
}

func (b bug) caught(t *testing.T, s *sites) []string {
	if b.row == "" {
		return b.byTests(t)
	}
	i := slices.IndexFunc(rows(), func(r row) bool { return r.id == b.row })
	if i < 0 {
		t.Fatalf("there is no row %s", b.row)
	}
	r := rows()[i]
	r.bug = b.name
	return s.play(t, r, cmp.Or(*oneSeed, b.seed))
}

// byTests runs tests of another package in a build with the bug.
func (b bug) byTests(t *testing.T) []string {
	cmd := exec.Command("go", "test", "-count=1", "-tags=seedbug", "-run="+b.tests[1], b.tests[0])
	cmd.Dir = rig.Root(t)
	cmd.Env = append(os.Environ(), "THREADHUB_TEST_SEEDBUG="+b.name)
	out, err := cmd.CombinedOutput()
	if err != nil && bytes.Contains(out, []byte("--- FAIL")) {
		return []string{string(out)}
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return nil
}

// A bug's name is nowhere in the build that is shipped.
func TestNoBugIsShipped(t *testing.T) {
	shipped, err := os.ReadFile(rig.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range bugs {
		if bytes.Contains(shipped, []byte(b.name)) {
			t.Errorf("%s is in the plain build", b.name)
		}
	}
}
