package threads

import (
	"bytes"
	"slices"

	"threadhub/openai"
)

// Decide is what a request adds to a thread of these messages, in sequence, and all of the history that goes before it.
func Decide(stored []*Message, request []openai.Message, fork bool) (*Turn, error) {
	return DecideWithin(stored, request, fork, Window{})
}

// DecideWithin is Decide with a window.
func DecideWithin(stored []*Message, request []openai.Message, fork bool, w Window) (*Turn, error) {
	t, err := decideFor(listed(stored), request, fork)
	if err != nil {
		return nil, err
	}
	return t, t.Fit(request, w)
}

// DecideCounting is DecideWithin, and tells how many messages it was given to look at.
func DecideCounting(stored []*Message, request []openai.Message, w Window) (*Turn, int, error) {
	c := &counted{listed: listed(stored)}
	t, err := decideFor(c, request, true)
	if err != nil {
		return nil, 0, err
	}
	err = t.Fit(request, w)
	return t, c.read, err
}

// StoredCounting is Stored of a request's turn, and how many messages were looked at for it.
func StoredCounting(stored []*Message, request []openai.Message, fork bool) (map[int]*Message, int, error) {
	c := &counted{listed: listed(stored)}
	t, err := decideFor(c, request, fork)
	if err != nil {
		return nil, 0, err
	}
	c.read = 0
	m, err := t.Stored()
	return m, c.read, err
}

func decideFor(th rows, request []openai.Message, fork bool) (*Turn, error) {
	in, err := hashed(request)
	if err != nil {
		return nil, err
	}
	return decide(th, in, fork)
}

type counted struct {
	listed
	read int
}

func (c *counted) count(m []*Message, err error) ([]*Message, error) {
	c.read += len(m)
	return m, err
}

func (c *counted) newest(n int) ([]*Message, error)    { return c.count(c.listed.newest(n)) }
func (c *counted) from(seq, n int) ([]*Message, error) { return c.count(c.listed.from(seq, n)) }
func (c *counted) before(seq int) ([]*Message, error)  { return c.count(c.listed.before(seq)) }

// listed is a thread in memory. It returns as little as it may, so that a decision that does not ask for enough is seen.
type listed []*Message

func (l listed) head() *Message {
	if len(l) == 0 {
		return nil
	}
	return l[len(l)-1]
}

func (l listed) newest(n int) ([]*Message, error) { return l[max(0, len(l)-n):], nil }
func (l listed) from(seq, n int) ([]*Message, error) {
	return l[seq:min(seq+n, len(l))], nil
}

func (l listed) places(own [32]byte) (list []int, err error) {
	for i := len(l) - 1; i >= 0 && len(list) < placesAtMost; i-- {
		if string(l[i].Own) == string(own[:]) {
			list = append(list, l[i].Seq)
		}
	}
	return list, nil
}

func (l listed) answered(own [][]byte) (bool, error) {
	return slices.ContainsFunc(l, func(m *Message) bool {
		return m.Role == "assistant" && m.Status == Complete && slices.ContainsFunc(own, func(h []byte) bool { return bytes.Equal(h, m.Own) })
	}), nil
}

func (l listed) before(seq int) ([]*Message, error) {
	return l[max(0, seq-2):seq], nil
}

func (l listed) known(own [32]byte) (int, bool) {
	for _, m := range l {
		if isSystem(m.Role) && string(m.Own) == string(own[:]) {
			return m.Seq, true
		}
	}
	return 0, false
}

func (l listed) lastSystem() ([]*Message, error) {
	var all []*Message
	for _, m := range l {
		if isSystem(m.Role) {
			all = append(all, m)
		}
	}
	return ofLastCall(all), nil
}

func (l listed) systemsBelow(seq int) (n int, err error) {
	for _, m := range l[:seq] {
		if isSystem(m.Role) {
			n++
		}
	}
	return n, nil
}

// What tests ask of the store's inside.
var (
	SearchSQL = searchSQL
	TSQuery   = tsquery
)

// MessageWords is what the index takes of a message.
var MessageWords = messageWords
