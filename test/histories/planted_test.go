package histories

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"threadhub/internal/fault"
	"threadhub/openai"
)

// within is how many conversations a planted fault may go unnoticed.
const within = 2000

// noticed plays conversations on a way until this is wrong, and returns what, and after how many.
func noticed(way Way, known error) (n uint64, err error) {
	for n = 1; n <= within; n++ {
		c := Make(n)
		if err = Judge(c, way(c)); errors.Is(err, known) {
			return n, err
		}
	}
	return n, nil
}

// blank puts other letters in the place of a mark.
func blank(body []byte, mark string) []byte {
	return bytes.ReplaceAll(body, []byte(mark), []byte(strings.Repeat("A", len(mark))))
}

// blanking loses the first piece of a kind.
func blanking(kinds ...string) Way {
	return Detour{Sent: func(c *Conversation, body []byte) []byte {
		for _, p := range c.pieces {
			if slices.Contains(kinds, p.kind) {
				return blank(body, p.mark)
			}
		}
		return body
	}}.Go
}

// swapped changes two marks for each other.
func swapped(body []byte, a, b string) []byte {
	body = bytes.ReplaceAll(body, []byte(a), []byte("ZqABCDEF"))
	body = bytes.ReplaceAll(body, []byte(b), []byte(a))
	return bytes.ReplaceAll(body, []byte("ZqABCDEF"), []byte(b))
}

// answered are the calls of a conversation that have results of their own.
func answered(c *Conversation) (list []call) {
	for _, one := range c.calls {
		if strings.HasPrefix(one.result, "Zq") {
			list = append(list, one)
		}
	}
	return list
}

// Each fault that is planted on the way is noticed, and for what it is: else nothing is known about its like.
func TestAPlantedFaultIsNoticed(t *testing.T) {
	raw := func(told []openai.Told, _ []openai.Message, _ map[string][]string) (out [][]byte, _ []string) {
		for _, m := range told {
			out = append(out, m.Raw)
		}
		return out, nil
	}
	whole := func(told []openai.Told, next []openai.Message, parts map[string][]string) ([][]byte, []string) {
		for i := range told {
			told[i].Cut = false
		}
		return openai.History(told, next, parts)
	}
	sent := func(f func(c *Conversation, body []byte) []byte) Way { return Detour{Sent: f}.Go }
	for name, fault := range map[string]struct {
		way   Way
		known []error
	}{
		"a result names another call": {sent(func(c *Conversation, body []byte) []byte {
			for _, one := range answered(c) {
				at := bytes.LastIndex(body, []byte(one.id))
				if at < 0 || c.To.Older {
					continue
				}
				return slices.Concat(body[:at], []byte("call_Other"), body[at+len("call_Other"):])
			}
			return body
		}), []error{ErrRefused}},
		"two results change places": {sent(func(c *Conversation, body []byte) []byte {
			if list := answered(c); len(list) > 1 && list[0].at == list[1].at && list[0].name != list[1].name {
				return swapped(body, list[0].result, list[1].result)
			}
			return body
		}), []error{ErrLink}},
		"a call has the name of another tool": {sent(func(c *Conversation, body []byte) []byte {
			return bytes.ReplaceAll(body, []byte("get_weather"), []byte("get_climate"))
		}), []error{ErrLink}},
		"a text is lost":             {blanking("text"), []error{ErrLost}},
		"an instruction is lost":     {blanking("instruction"), []error{ErrLost}},
		"an answer is lost":          {blanking("answer"), []error{ErrLost}},
		"a refusal is lost":          {blanking("refusal"), []error{ErrLost}},
		"a transcript is lost":       {blanking("transcript"), []error{ErrLost}},
		"arguments are lost":         {blanking("arguments"), []error{ErrLost, ErrLink}},
		"a result is lost":           {blanking("result"), []error{ErrLost, ErrLink}},
		"an image is lost":           {blanking("image"), []error{ErrLost}},
		"an image of a tool is lost": {blanking("shown by a tool"), []error{ErrLost}},
		"a sound is lost":            {blanking("sound"), []error{ErrLost}},
		"a file is lost":             {blanking("file"), []error{ErrLost}},
		"a thought is lost":          {blanking("thought"), []error{ErrLost}},
		"two texts change places": {sent(func(c *Conversation, body []byte) []byte {
			var marks []string
			last := -1
			for _, p := range c.pieces {
				if p.kind == "text" && p.at > last {
					marks, last = append(marks, p.mark), p.at
				}
			}
			if len(marks) > 1 {
				return swapped(body, marks[0], marks[1])
			}
			return body
		}), []error{ErrOrder}},
		"no warning is given": {Detour{Warned: func([]string) []string { return nil }}.Go, []error{ErrLost}},
		"warnings name something else": {Detour{Warned: func(list []string) []string {
			for i := range list {
				list[i] = strings.Replace(list[i], "messages.", "message.", 1)
			}
			return list
		}}.Go, []error{ErrLost}},
		"signatures go to anybody":            {Detour{Kinship: func(_, _ Target) openai.Kinship { return openai.Own }}.Go, []error{ErrThere, ErrSigned, ErrRefused}},
		"signatures go to another generation": {Detour{Kinship: own}.Go, []error{ErrThere, ErrRefused}},
		"signatures come back to nobody":      {Detour{Kinship: func(_, _ Target) openai.Kinship { return openai.Relative }}.Go, []error{ErrLost, ErrSigned}},
		"signatures of cut answers go":        {Detour{History: whole}.Go, []error{ErrThere}},
		"what is sent back goes as it came":   {Detour{Takes: func(Target, string, []byte) bool { return true }}.Go, []error{ErrRefused}},
		"what is sent back goes nowhere":      {Detour{Takes: func(Target, string, []byte) bool { return false }}.Go, []error{ErrLost}},
		"the placeholder is left out": {sent(func(_ *Conversation, body []byte) []byte {
			return bytes.ReplaceAll(body, []byte(`,"thoughtSignature":"`+placeholder+`"`), nil)
		}), []error{ErrRefused}},
		"the placeholder stands everywhere": {sent(func(c *Conversation, body []byte) []byte {
			if c.To.demands() {
				return bytes.ReplaceAll(body, []byte(`"n":1}}}`), []byte(`"n":1}},"thoughtSignature":"`+placeholder+`"}`))
			}
			return body
		}), []error{ErrSigned}},
		"the history goes as it is stored": {Detour{History: raw}.Go, []error{ErrRefused, ErrThere}},
		"everything is refused": {func(*Conversation) Outcome {
			return Outcome{Err: refusal("messages[0]")}
		}, []error{ErrRefused}},
		"refusals do not say of what": {func(c *Conversation) Outcome {
			o := Straight(c)
			if o.Err != nil {
				o.Err = refusal("")
			}
			return o
		}, []error{ErrRefused}},
		"what is asked for now is left out": {func(c *Conversation) Outcome {
			c.now = len(c.all()) // as if it were history
			o := Straight(c)
			if o.Err != nil && c.Wrong == "" {
				return Outcome{Body: []byte("{}")}
			}
			return o
		}, []error{ErrLost}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, known := range fault.known {
				if n, err := noticed(fault.way, known); err == nil {
					t.Errorf("in %d conversations nobody noticed that %v", within, known)
				} else {
					t.Logf("noticed at %d: %.200v", n, err)
				}
			}
		})
	}
}

// own takes all models of a provider for one kind.
func own(by, to Target) openai.Kinship {
	if by.Provider == to.Provider {
		return openai.Own
	}
	return openai.Foreign
}

func refusal(param string) error {
	return fault.New(fault.Invalid, "no").WithCode("invalid_value").WithParam(param)
}
