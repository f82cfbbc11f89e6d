package sdk

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"threadhub/simulator"
)

// The cases in which all goes well.

// chat: a whole answer; then a turn that sends only what is new, and one that sends the whole conversation.
func chat(c *cell) {
	k := c.talk("whole")
	const opening = "first [[sim prompt_tokens=2000 cached_tokens=1200]]"
	r := k.ok(k.job(doChat, opening))
	first := k.answered("complete", "")
	if first.Usage == nil || first.Usage.Cached != 1200 {
		k.Fatalf("the provider says %+v of what it used, and was to say that 1,200 tokens were cached", first.Usage)
	}
	k.saw(r, first)
	k.headed(r, 0, "appended")
	k.sameUsage(r.Usage, first)
	if pico, how := k.dialect.cost(first); !isDollars(r.Header["x-threadhub-cost-usd"], pico) || r.Header["x-threadhub-cost-status"] != how {
		k.Errorf("the header says it cost %s (%s), want %d pico-dollars (%s)", r.Header["x-threadhub-cost-usd"], r.Header["x-threadhub-cost-status"], pico, how)
	}

	r = k.ok(k.job(doChat, "second"))
	second := k.answered("complete", "")
	k.saw(r, second)
	k.headed(r, 2, "appended")
	if k.threaded {
		k.got(second, user(k.says(opening)), assistant(first.Text), user(k.says("second")))
		k.keptSigned(first, second)
	} else {
		k.got(second, user(k.says("second")))
	}

	j := k.job(doChat, "third")
	j.Messages = slices.Concat([]message{
		{"user", k.says(opening)}, {"assistant", first.Text}, {"user", k.says("second")}, {"assistant", second.Text},
	}, j.Messages)
	r = k.ok(j)
	third := k.answered("complete", "")
	k.saw(r, third)
	k.headed(r, 4, "deduplicated")
	k.got(third, user(k.says(opening)), assistant(first.Text), user(k.says("second")), assistant(second.Text), user(k.says("third")))
	k.keptSigned(first, third)
	k.keptSigned(second, third)
	k.audit()
}

// saw fails the cell unless the client saw what the provider sent, under the id of the call.
func (k *talk) saw(r result, a simulator.Attempt) {
	k.Helper()
	if r.Text != a.Text || r.Text == "" || r.Finish != "stop" || !strings.HasPrefix(r.Model, k.dialect.model) {
		k.Errorf("the client saw %q, finish %q, model %q; the provider sent %q", r.Text, r.Finish, r.Model, a.Text)
	}
	if r.RequestID == "" || r.RequestID != callID(a) {
		k.Errorf("x-request-id is %q, the provider was asked by %q", r.RequestID, a.Name)
	}
}

// headed fails the cell unless the answer's headers tell which thread it was, where in it, and how it was read.
func (k *talk) headed(r result, seq int, mode string) {
	k.Helper()
	thread, at, how := r.Header["x-thread-id"], r.Header["x-threadhub-thread-seq"], r.Header["x-threadhub-thread-mode"]
	if !k.threaded {
		if thread+at+how != "" {
			k.Errorf("a plain call is told of the thread %q", thread)
		}
		return
	}
	if thread != k.thread || at != strconv.Itoa(seq) || how != mode {
		k.Errorf("the answer is told to be in %q, after %s, %s; want %q, %d, %s", thread, at, how, k.thread, seq, mode)
	}
}

// stream: a streamed answer, without usage and then with.
func stream(c *cell) {
	k := c.talk("streamed")
	r := k.ok(k.job(doStream, "first [[sim chunks=40 flush=1]]"))
	first := k.answered("complete", "")
	k.saw(r, first)
	k.headed(r, 0, "appended")
	if r.Usages != 0 {
		k.Errorf("the client did not ask for usage, and got it %d times", r.Usages)
	}

	j := k.job(doStream, "second")
	j.IncludeUsage = true
	r = k.ok(j)
	second := k.answered("complete", "")
	k.saw(r, second)
	k.headed(r, 2, "appended")
	if k.threaded {
		k.got(second, user(k.says("first [[sim chunks=40 flush=1]]")), assistant(first.Text), user(k.says("second")))
		k.keptSigned(first, second)
	}
	if r.Usages != 1 {
		k.Fatalf("the client asked for usage, and got it %d times", r.Usages)
	}
	k.sameUsage(r.Usage, second)
	if pico, how := k.dialect.cost(second); !isDollars(r.Usage.CostUSD, pico) || r.Usage.CostStatus != how {
		k.Errorf("the stream says it cost %s (%s), want %d pico-dollars (%s)", r.Usage.CostUSD, r.Usage.CostStatus, pico, how)
	}
	k.audit()
}

// tools: the model calls, the caller answers, the model ends; whole and streamed.
func tools(c *cell) {
	whole := c.talk("whole")
	whole.roundTrip(whole.job(doTools, "call the tool"), 1)

	streamed := c.talk("streamed")
	j := streamed.job(doToolsStream, "call both tools [[sim fault=args_split split=1]]")
	j.Thin = c.threaded // the thread knows what was called: the results are enough
	streamed.roundTrip(j, 2)
}

func (k *talk) roundTrip(j job, calls int) {
	k.Helper()
	r := k.ok(j)
	if len(r.Calls) != calls {
		k.Fatalf("the model called %d tools, want %d: %+v", len(r.Calls), calls, r.Calls)
	}
	asked := k.answered("complete", "")
	k.last().calls = r.Calls
	cities := []string{"Tartu", "Riga"}
	for i, c := range r.Calls {
		if c.Name != weatherName || !sameJSON(c.Args, []byte(`{"city":"`+cities[i]+`"}`)) {
			k.Errorf("call %d is %+v", i, c)
		}
		theirs := calls > 1 || !k.dialect.unnamed
		if c.ID == "" || strings.Contains(string(asked.Sent), c.ID) != theirs {
			k.Errorf("call %d has the id %q; the provider sent %q", i, c.ID, asked.Events)
		}
		k.want = append(k.want, want{role: "tool", text: weatherIn(cities[i]), callID: c.ID})
	}
	ended := k.answered("complete", "")
	want := []shown{user(k.want[0].text), calling(r.Calls)}
	for _, c := range r.Calls {
		want = append(want, tool(c))
	}
	k.got(ended, want...)
	k.keptSigned(asked, ended)
	if r.Text != ended.Text || r.Text == "" || r.Finish != "stop" {
		k.Errorf("the final answer is %q, finish %q; the provider sent %q", r.Text, r.Finish, ended.Text)
	}
	k.audit()
}

// answerSchema is what the structured answers must fit.
const answerSchema = `{"type":"object","properties":{"city":{"type":"string"},"people":{"type":"integer"},` +
	`"districts":{"type":"array","items":{"type":"string"}}},"required":["city","people","districts"],"additionalProperties":false}`

// structured: an answer by a JSON schema, through the SDK's parser; and the same streamed.
func structured(c *cell) {
	for _, do := range []string{doParse, doStream} {
		k := c.talk(do)
		j := k.job(do, "tell me about a city")
		j.Schema = json.RawMessage(answerSchema)
		r := k.ok(j)
		a := k.answered("complete", "")
		k.saw(r, a)
		if do == doStream {
			r.Parsed = json.RawMessage(r.Text)
		}
		var city struct {
			City      *string
			People    *int64
			Districts []string
		}
		if err := json.Unmarshal(r.Parsed, &city); err != nil || city.City == nil || city.People == nil || city.Districts == nil || !sameJSON(r.Parsed, []byte(a.Text)) {
			k.Errorf("parsed is %s (%v); the provider sent %s", r.Parsed, err, a.Text)
		}
		var asked, want map[string]json.RawMessage
		if err := errors.Join(json.Unmarshal(a.Body, &asked), json.Unmarshal(fmt.Appendf(nil, k.dialect.form, answerSchema), &want)); err != nil {
			k.Fatal(err)
		}
		for member, v := range want {
			if !sameJSON(asked[member], v) {
				k.Errorf("the provider was asked for the %s %s, want %s", member, asked[member], v)
			}
		}
		k.audit()
	}
}
