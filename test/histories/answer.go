package histories

import (
	"slices"
	"strconv"
	"strings"
)

// what one model left for its own kind, and whether the target is of that kind.
type kept struct {
	by  Target
	own bool // the target may have it
	cut bool
}

// answer makes an answer as its provider gives it and the gateway shows and stores it.
func (m *maker) answer(by Target) {
	k := kept{by: by, own: m.c.To.kin(by)}
	if !m.c.Thread && (!k.own && !m.shed(by) || m.chance(40)) {
		m.bare(by)
		return
	}
	var members []string
	content := "null"
	kind := m.IntN(100)
	k.cut = m.c.Thread && m.chance(12)
	if kind < 60 || kind < 80 && m.chance(30) {
		mark := m.mark()
		m.piece(piece{kind: "answer", mark: mark})
		content = m.json(m.text(mark))
	}
	spoken := kind >= 85 && kind < 92 && by.Provider == "openai"      // OpenAI wants no more of it back than its id
	if !m.c.Thread && m.c.To.speaksChat() && (kind >= 92 || spoken) { // no client sends back nothing
		m.bare(by)
		return
	}
	members = append(members, m.thoughts(k, kind < 92)...)
	switch {
	case kind < 60:
		members = append(members, m.cited(k)...)
		members = append(members, m.signedText(k)...)
	case kind < 80:
		members = append(members, "tool_calls", m.toolCalls(k))
	case kind < 85:
		mark := m.mark()
		m.piece(piece{kind: "refusal", mark: mark})
		members = append(members, "refusal", m.json(m.text(mark)))
	case spoken:
		members = append(members, m.spoken(k)...)
	case kind < 92 && by.Provider == "perplexity":
		mark := m.mark()
		m.piece(piece{kind: "answer", mark: mark})
		content = quote(mark)
	case kind < 92:
		members = append(members, m.drawn(k)...)
	default: // all its tokens went into thoughts
		content = pick(m, "null", `""`)
	}
	if m.chance(20) && !slices.Contains(members, "refusal") {
		members = append(members, "refusal", "null")
	}
	m.add(Message{Role: "assistant", Raw: m.object(append([]string{"role", `"assistant"`, "content", content}, members...)...), Answer: true, By: by, Cut: k.cut})
}

// shed reports whether a client may send back all of an answer of another model's, and the target is not told what it would
// refuse: OpenAI what it does not know, a vendor at OpenRouter what another one has sealed.
func (m *maker) shed(by Target) bool {
	to := m.c.To
	return to.Provider == "openai" ||
		to.Provider == "openrouter" && by.Provider == "openrouter" && vendorFormat[to.family()] != "" && to.google() == "" && to.family() != by.family()
}

// bare makes an answer of which the client kept what the API knows.
func (m *maker) bare(by Target) {
	k := kept{by: by}
	var members []string
	mark := m.mark()
	content := m.json(m.text(mark))
	kind := m.IntN(100)
	if kind < 90 {
		m.piece(piece{kind: "answer", mark: mark})
	}
	switch {
	case kind < 30:
		if m.chance(50) {
			second := m.mark()
			m.piece(piece{kind: "answer", mark: second})
			content = array([]string{m.object("type", `"text"`, "text", content), m.object("type", `"text"`, "text", m.json(m.text(second)))})
		}
	case kind < 40:
		refused := m.mark()
		m.piece(piece{kind: "refusal", mark: refused})
		if m.chance(50) {
			content = array([]string{m.object("type", `"text"`, "text", content), m.object("type", `"refusal"`, "refusal", quote(refused))})
			break
		}
		members = []string{"refusal", m.json(m.text(refused))}
	case kind < 60:
	case kind < 90:
		members = []string{"tool_calls", m.toolCalls(k)}
	default:
		content, members = pick(m, "null", `""`, ""), []string{"tool_calls", m.toolCalls(k)}
	}
	m.add(Message{Role: "assistant", Raw: m.object(append([]string{"role", `"assistant"`, "content", content}, members...)...), Answer: true, By: by})
}

// own notes a piece that a model left for its own kind, and whether its provider wants it back.
func (m *maker) own(k kept, kind, mark string, back bool, excuse ...string) {
	m.piece(piece{kind: kind, mark: mark, excuse: excuse, loose: true, by: &k.by, back: back, cut: k.cut})
}

// vendorFormat is how OpenRouter names the form of a vendor's thoughts.
var vendorFormat = map[string]string{
	"anthropic": "anthropic-claude-v1", "google": "google-gemini-v1", "openai": "openai-responses-v1",
}

// thoughts are what a model thought, as its provider tells. says is that it also said something.
func (m *maker) thoughts(k kept, says bool) []string {
	if m.chance(40) {
		return nil
	}
	mark := m.mark()
	thought := m.json(m.text(mark))
	switch k.by.Provider {
	case "gemini", "perplexity":
		m.own(k, "thought", mark, false, "messages.reasoning_content")
		return []string{"reasoning_content", thought}
	case "openrouter":
		vendor, _, _ := strings.Cut(k.by.Model, "/")
		format := vendorFormat[vendor]
		if format == "" {
			format = "unknown"
		}
		told, sealed := m.mark(), m.mark()
		m.own(k, "thought", mark, says, "messages.reasoning")
		m.own(k, "thought", told, says, "messages.reasoning_details")
		m.own(k, "signature of a thought", sealed, says, "messages.reasoning_details")
		detail := m.object("type", `"reasoning.text"`, "text", m.json(m.text(told)), "signature", quote(sealed), "format", quote(format), "index", "0")
		return []string{"reasoning", thought, "reasoning_details", array([]string{detail})}
	}
	return nil
}

// cited are the sources of a text.
func (m *maker) cited(k kept) []string {
	if m.chance(70) {
		return nil
	}
	mark := m.mark()
	m.own(k, "citation", mark, k.by.speaksChat(), "messages.annotations")
	url := m.object("type", `"url_citation"`, "url_citation", m.object("start_index", "0", "end_index", "1", "title", `"A page"`, "url", quote("https://cited.example.com/"+mark)))
	return []string{"annotations", array([]string{url})}
}

// google is what only Google knows of a message or a call.
func (m *maker) google(signature string) string {
	return m.object("google", m.object("thought_signature", quote(signature)))
}

// sealed is a signature of what is no call. Those of the simulator are all alike: one that must not arrive is Google's own
// by its look, and is told from others.
func (m *maker) sealed(k kept) string {
	if k.own && !k.cut {
		return signature(k.by, "", "")
	}
	return "EpAC" + m.mark()
}

// signedText is the signature of a text of Gemini's.
func (m *maker) signedText(k kept) []string {
	if k.by.Provider != "gemini" || m.chance(50) {
		return nil
	}
	s := m.sealed(k)
	m.own(k, "signature of a text", s, true, "messages.extra_content")
	return []string{"extra_content", m.google(s)}
}

// drawn are images that the model made.
func (m *maker) drawn(k kept) []string {
	mark := m.mark()
	image := []string{"type", `"image_url"`, "image_url", m.object("url", quote("data:image/png;base64,"+base64(mark)))}
	m.own(k, "drawn by the model", mark, k.by.Provider != "perplexity", "messages.images")
	if k.by.Provider == "gemini" && m.chance(50) {
		s := m.sealed(k)
		m.own(k, "signature of an image", s, true, "messages.images.extra_content", "messages.images")
		image = append(image, "extra_content", m.google(s))
	}
	return []string{"images", array([]string{m.object(image...)})}
}

// spoken is an answer in sound.
func (m *maker) spoken(k kept) []string {
	id, said := m.mark(), m.mark()
	m.own(k, "sound's id", id, true, "messages.audio")
	m.piece(piece{kind: "transcript", mark: said, by: &k.by, spoken: true, cut: k.cut})
	return []string{"audio", m.object("id", quote("audio_"+id), "data", `"UklGRg=="`, "expires_at", "1794700800", "transcript", m.json(m.text(said)))}
}

// toolCalls are one call or several.
func (m *maker) toolCalls(k kept) string {
	var list []string
	m.ids = nil
	n := 1
	if m.chance(35) {
		n += 1 + m.IntN(2)
	}
	signs := k.by.google() != "" && k.by.Provider != "openrouter" && (m.c.Thread || k.own || m.shed(k.by)) && m.chance(70)
	for i := range n {
		half := k.cut && i == n-1 && k.by.speaksChat() && m.chance(80) // the others send calls whole
		list = append(list, m.toolCall(k, i, signs && i == 0, half))
	}
	return array(list)
}

// toolCall is one. half is one that was cut: nobody can have run it.
func (m *maker) toolCall(k kept, i int, signed, half bool) string {
	c := call{id: "call_" + m.mark(), args: m.mark(), name: pick(m, m.tools...), by: k.by, cut: k.cut, at: len(m.mine)}
	if len(m.used) > 0 && m.chance(8) { // some count from one in each turn
		if id := pick(m, m.used...); !slices.Contains(m.ids, id) {
			c.id = id
		}
	}
	m.ids = append(m.ids, c.id)
	if k.by.Provider == "gemini" && m.c.Thread && m.chance(10) {
		c.name = "ns." + m.mark() + ":call"
	}
	if half {
		c.result = none
	}
	var lost []string
	if k.cut {
		lost = []string{"messages.tool_calls"}
	}
	m.piece(piece{kind: "call", mark: c.id, excuse: []string{"messages.tool_calls"}, cut: k.cut})
	m.piece(piece{kind: "arguments", mark: c.args, excuse: lost})
	if strings.Contains(c.name, "Zq") {
		m.piece(piece{kind: "called name", mark: c.name[3:11], excuse: lost})
	}
	args := `{"q":"` + c.args + `","n":1}`
	switch n := m.IntN(100); {
	case half:
		args = args[:len(args)-1-m.IntN(6)]
	case n < 5:
		args = `{ "q" : "` + c.args + `", "n": [1.50, null] }`
	case signed: // those who sign have read them
	case n < 8:
		args = `["` + c.args + `"]`
	case n < 11:
		args = `{"q":"` + c.args // models do that
	}
	custom := k.by.Provider == "openai" && !signed && m.chance(10)
	if custom {
		c.sent = c.id
		raw := m.object("id", quote(c.id), "type", `"custom"`, "custom", m.object("name", quote(c.name), "input", quote(c.args)))
		m.c.calls = append(m.c.calls, c)
		return raw
	}
	id, extra, inside, index := c.id, "", "", ""
	if signed {
		name := c.name
		if k.by.Provider == "gemini" && strings.Contains("-0123456789", name[:1]) {
			name = "_" + name // as it was asked to call it
		}
		c.signature = signature(k.by, name, args)
		m.own(k, "signature of a call", c.signature, true, "messages.tool_calls.extra_content", "messages.tool_calls")
		switch extra = m.google(c.signature); {
		case m.c.Thread || m.c.To.Provider != "gemini":
		case m.chance(15): // as LiteLLM gives it
			id, extra = c.id+"__thought__"+c.signature, ""
		case m.chance(15): // as Portkey does
			inside, extra = quote(c.signature), ""
		}
	}
	c.sent = id
	if m.c.Thread && k.by.Provider == "openrouter" && m.chance(50) {
		index = strconv.Itoa(i)
	}
	m.c.calls = append(m.c.calls, c)
	return m.object("index", index, "id", quote(id), "type", `"function"`, "function", m.object("name", quote(c.name), "arguments", m.escaped(args), "thought_signature", inside), "extra_content", extra)
}
