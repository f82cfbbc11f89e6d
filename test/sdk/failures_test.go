package sdk

import (
	"encoding/json"
	"strings"
	"time"

	"threadhub/simulator"
)

// The cases in which something goes wrong.

// failure: what the provider, or we, refuse; and answers that end before they should.
func failure(c *cell) {
	refused(c)
	strangers(c)
	once := 0
	for _, f := range []struct{ name, do, script, class, status, reason string }{
		{"error_mid", doStream, "fault=error_mid after=3", inStream, "incomplete", "upstream_error"},
		{"cut", doStream, "fault=cut after=3", inStream, "incomplete", "upstream_truncated"},
		{"reset", doStream, "fault=reset_mid after=3", inStream, "incomplete", "upstream_reset"},
		{"whole", doChat, "fault=reset_mid", serverError, "failed", "upstream_reset"},
	} {
		k := c.talk(f.name)
		j := k.job(f.do, "go on [[sim "+f.script+" flush=1]]")
		j.MaxRetries = &once
		r := k.raises(f.class, j)
		a := k.answered(f.status, f.reason)
		if r.Err.Message == "" || r.Err.Type == "" || r.Err.Code != f.reason {
			k.Errorf("%s: the SDK raised %+v, want the code %s", f.name, *r.Err, f.reason)
		}
		if f.do == doStream {
			if r.Text == "" || !strings.HasPrefix(a.Text, r.Text) || r.RequestID != callID(a) {
				k.Errorf("%s: the client saw %q of %q, in request %q of %q", f.name, r.Text, a.Text, r.RequestID, a.Name)
			}
			k.last().text, k.last().partOfText = r.Text, true
		} else {
			k.last().text = ""
		}
		k.audit()
	}
}

// refused: the provider's own 400 comes through.
func refused(c *cell) {
	k := c.talk("refused")
	how := k.dialect.refused
	j := k.job(doChat, "hello "+how.script)
	if how.temperature > 0 {
		j.Temperature = &how.temperature
	}
	r := k.raises(badRequest, j)
	k.seen += how.before
	a := k.answered("failed", how.code)
	k.last().text = ""
	if r.Err.Status != 400 || r.Err.Param != how.param || r.Err.Code != how.code || r.Err.Type != "invalid_request_error" || r.RequestID != callID(a) {
		k.Errorf("the SDK raised %+v in request %q of %q", *r.Err, r.RequestID, a.Name)
	}
	var theirs struct{ Error struct{ Message string } } // in this much all of them agree
	if err := json.Unmarshal([]byte(strings.Join(a.Events, "")), &theirs); err != nil || theirs.Error.Message == "" {
		k.Fatalf("the provider sent %q: %v", a.Events, err)
	}
	if !strings.Contains(r.Err.Message, strings.TrimSpace(theirs.Error.Message)) {
		k.Errorf("the SDK's message is %q, the provider's %q", r.Err.Message, theirs.Error.Message)
	}
	k.audit()
}

// strangers: a key and a model that nobody knows. The provider is not asked, and nothing is kept.
func strangers(c *cell) {
	k := c.talk("strangers")
	j := k.job(doChat, "let me in")
	j.Key = "th_0000000000000000000000000000000000000000"
	if r := k.raises(authentication, j); r.Err.Status != 401 || r.Err.Code != "invalid_api_key" || r.RequestID == "" {
		k.Errorf("a bad key: the SDK raised %+v in request %q", *r.Err, r.RequestID)
	}
	j = k.job(doChat, "hello")
	j.Model = "no-such-model"
	if r := k.raises(notFound, j); r.Err.Status != 404 || r.Err.Code != "model_not_found" || r.RequestID == "" {
		k.Errorf("an unknown model: the SDK raised %+v in request %q", *r.Err, r.RequestID)
	}
	if n := len(k.attempts()); n > 0 {
		k.Errorf("the provider was asked %d times", n)
	}
	if k.threaded {
		if r, err := k.w.gw.Do(k.Context(), "GET", "/api/threads/"+k.thread, k.w.reader.Key, nil); err != nil || r.Status != 404 {
			k.Errorf("the thread is there: %+v, %v", r, err)
		}
	}
}

// retry: the provider fails once, and the SDK's own retry is answered. The user's message is kept once, and each try is a
// call with a ledger line.
func retry(c *cell) {
	k := c.talk("500")
	r := k.ok(k.job(doChat, "again [[sim status=500 times=1]]"))
	k.answered("failed", "upstream_error")
	k.last().text = ""
	k.saw(r, k.answered("complete", ""))
	k.audit()

	k = c.talk("429")
	r = k.ok(k.job(doStream, "again [[sim status=429 retry_after=1 times=1]]"))
	first := k.answered("failed", "rate_limit_exceeded")
	k.last().text = ""
	second := k.answered("complete", "")
	k.saw(r, second)
	if waited := second.Begun.Sub(first.Ended); waited < time.Second {
		k.Errorf("the provider said to wait a second, and the SDK came back after %v", waited)
	}
	k.audit()
}

// timeout: the client gives up before the provider answers, or in the middle of it. The provider's work is cancelled, the
// call is recorded, and the thread is free for the next turn.
func timeout(c *cell) {
	once := 0
	for _, f := range []struct{ name, do, script, class, status string }{
		{"whole", doChat, "head=1m", timedOut, "failed"},
		{"stream", doStream, "head=1m", timedOut, "failed"},
		{"middle", doStream, "fault=stall after=3 flush=1", deadline, "incomplete"},
	} {
		k := c.talk(f.name)
		// Not in the text: a turn without an answer leaves it beside the next one's, and in Gemini's form the two are one.
		if err := k.w.sim.Play(simulator.Script{Match: k.mark, Times: 1, Do: f.script}); err != nil {
			k.Fatal(err)
		}
		j := k.job(f.do, "slowly")
		j.MaxRetries = &once
		// Patient enough for the provider to be asked, also where sixteen cells begin at once.
		if f.class == timedOut {
			j.TimeoutMS = 1500
		} else {
			j.DeadlineMS = 1500
		}
		r := k.raises(f.class, j)
		left := time.Now()
		a := k.answered(f.status, "client_closed")
		if a.End != "client_gone" || a.Ended.Sub(left) > noticed {
			k.Errorf("%s: the provider's attempt ended with %s, %v after the client had left", f.name, a.End, a.Ended.Sub(left))
		}
		if k.last().text, k.last().partOfText = r.Text, true; f.status == "failed" {
			k.last().partOfText = false
		} else if r.Text == "" {
			k.Errorf("%s: the client saw nothing", f.name)
		}
		next := k.ok(k.job(doChat, "next"))
		k.saw(next, k.answered("complete", ""))
		k.audit()
	}
}

// noticed is how long the gateway may take to see that a client has left and to cancel what it asked for.
const noticed = 2500 * time.Millisecond
