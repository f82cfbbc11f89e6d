package openai

import (
	"slices"
	"strconv"
)

// Edits are the changes routing and threads make to a request on its way up. The zero Edits only removes what is the
// gateway's own: thread_id and metadata.thread_id.
type Edits struct {
	Model   string   // the provider's name for the model; "" leaves the client's
	History [][]byte // messages, valid JSON, put into the messages before index At
	At      int      // counted in the client's messages; beyond either end means that end
	Drop    []int    // the client's messages to leave out, in any order; others than there are, are ignored

	// Instead are messages, valid JSON, that stand for the client's, by the index of these. What is dropped stays so.
	Instead map[int][]byte

	// MaxTokens lowers how long an answer may be, in each member that says so; where none does, in one of the name NewMax.
	// 0 leaves it.
	MaxTokens int64
	NewMax    string

	// IncludeUsage makes a streamed request ask for the usage chunk. It does nothing where the request does not stream,
	// since providers refuse the option there.
	IncludeUsage bool
}

// edit replaces what is at a span.
type edit struct {
	at   Span
	with []byte   // instead of the span
	list [][]byte // joined by commas, after with
	tail string   // after list
}

// Splice returns the body with e applied: the client's own memory if nothing had to change, else one new slice in which
// every byte outside the edits is the client's, white space, order and escapes included. Metadata that is empty once
// thread_id is gone goes too.
func (c *ChatRequest) Splice(e Edits) []byte {
	var room [8]edit
	edits := c.editModel(room[:0], e.Model)
	edits = c.editMessages(edits, e)
	if e.IncludeUsage && c.Stream && !c.IncludeUsage {
		edits = append(edits, c.askUsage())
	}
	if e.MaxTokens > 0 {
		edits = c.editMaxTokens(edits, e)
	}
	return splice(c.Raw, c.removeThread(edits))
}

// editMaxTokens sets the members that bound the answer.
func (c *ChatRequest) editMaxTokens(edits []edit, e Edits) []edit {
	n := strconv.AppendInt(nil, e.MaxTokens, 10)
	told, null := false, Span{}
	for _, m := range c.members {
		switch name := string(m.Name); {
		case name != "max_tokens" && name != "max_completion_tokens":
		case !isNull(m.Value.of(c.Raw)):
			edits = append(edits, edit{at: m.Value, with: n})
			told = true
		case name == e.NewMax:
			null = m.Value
		}
	}
	switch {
	case told:
		return edits
	case !null.empty():
		return append(edits, edit{at: null, with: n})
	}
	return append(edits, edit{at: Span{c.open, c.open}, with: append(append([]byte(`"`+e.NewMax+`":`), n...), ',')})
}

// splice returns raw with edits made, which it sorts: raw itself if there are none.
func splice(raw []byte, edits []edit) []byte {
	if len(edits) == 0 {
		return raw
	}
	// Spans do not overlap. Where an insertion stands at the start of a removal, it comes first; at its end, after.
	slices.SortStableFunc(edits, func(a, b edit) int {
		if a.at[0] != b.at[0] {
			return a.at[0] - b.at[0]
		}
		return a.at[1] - b.at[1]
	})
	size := len(raw)
	for i := range edits {
		size += len(edits[i].with) + len(edits[i].tail) + len(edits[i].list)
		for _, m := range edits[i].list {
			size += len(m)
		}
	}
	out, from := make([]byte, 0, size), 0
	for i := range edits {
		d := &edits[i]
		out = append(out, raw[from:d.at[0]]...)
		out = append(out, d.with...)
		for n, m := range d.list {
			if n > 0 {
				out = append(out, ',')
			}
			out = append(out, m...)
		}
		out = append(out, d.tail...)
		from = d.at[1]
	}
	return append(out, raw[from:]...)
}

// editMessages drops messages, changes some for others, and puts history in.
func (c *ChatRequest) editMessages(edits []edit, e Edits) []edit {
	if len(e.History) == 0 && len(e.Drop) == 0 && len(e.Instead) == 0 {
		return edits
	}
	n, gone := len(c.Messages), c.dropped(e.Drop)
	edits = removeItems(edits, n, func(i int) (Span, bool) { return c.Messages[i].at, gone[i] })
	for i, m := range e.Instead {
		if i >= 0 && i < n && !gone[i] {
			edits = append(edits, edit{at: c.Messages[i].at, with: m})
		}
	}
	if len(e.History) == 0 {
		return edits
	}
	// Before the first message that stays at or after At; else behind the last that stays; else alone.
	at := min(max(e.At, 0), n)
	for i := at; i < n; i++ {
		if !gone[i] {
			p := c.Messages[i].at[0]
			return append(edits, edit{at: Span{p, p}, list: e.History, tail: ","})
		}
	}
	for i := at - 1; i >= 0; i-- {
		if !gone[i] {
			p := c.Messages[i].at[1]
			return append(edits, edit{at: Span{p, p}, with: []byte(","), list: e.History})
		}
	}
	p := c.Messages[0].at[0]
	return append(edits, edit{at: Span{p, p}, list: e.History})
}

// dropped marks the messages to leave out.
func (c *ChatRequest) dropped(drop []int) []bool {
	gone := make([]bool, len(c.Messages))
	for _, i := range drop {
		if i >= 0 && i < len(gone) {
			gone[i] = true
		}
	}
	return gone
}

// removeItems removes items of a list of n with the commas that are theirs: a run of items goes with what follows it up
// to the next item, or, at the end of the list, with what precedes it.
func removeItems(edits []edit, n int, item func(i int) (at Span, gone bool)) []edit {
	for i := 0; i < n; i++ {
		cut, gone := item(i)
		if !gone {
			continue
		}
		first := i
		for i+1 < n {
			next, gone := item(i + 1)
			if !gone {
				break
			}
			cut[1] = next[1]
			i++
		}
		if i+1 < n {
			next, _ := item(i + 1)
			cut[1] = next[0]
		} else if first > 0 {
			before, _ := item(first - 1)
			cut[0] = before[1]
		}
		edits = append(edits, edit{at: cut})
	}
	return edits
}

// askUsage makes stream_options.include_usage true.
func (c *ChatRequest) askUsage() edit {
	const ask = `"include_usage":true`
	at := c.streamOptions
	options := at.of(c.Raw)
	switch {
	case at.empty():
		return edit{at: Span{c.open, c.open}, with: []byte(`"stream_options":{` + ask + `},`)}
	case !isObject(options): // null
		return edit{at: at, with: []byte(`{` + ask + `}`)}
	}
	first := Span{at[0] + 1, at[0] + 1}
	if m, _ := find(options, "include_usage"); !m.Value.empty() { // false or null
		return edit{at: Span{at[0] + m.Value[0], at[0] + m.Value[1]}, with: []byte("true")}
	}
	members := 0
	walk(options, func(Member) { members++ })
	if members == 0 {
		return edit{at: first, with: []byte(ask)}
	}
	return edit{at: first, with: []byte(ask + ",")}
}

// removeInner removes thread_id from the metadata at a span; empty says that nothing else was in there.
func removeInner(edits []edit, raw []byte, at Span) (_ []edit, empty bool) {
	var items []Span
	var gone []bool
	walk(at.of(raw), func(m Member) {
		items = append(items, Span{at[0] + m.Key[0], at[0] + m.Value[1]})
		gone = append(gone, string(m.Name) == "thread_id")
	})
	if len(items) == 1 && gone[0] {
		return edits, true
	}
	return removeItems(edits, len(items), func(i int) (Span, bool) { return items[i], gone[i] }), false
}
