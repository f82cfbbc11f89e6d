package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"threadhub/threads"
)

// markdown is a thread for people to read. What was said stands in block quotes: whatever a message holds, headings,
// rules or a fence it forgot to close, ends with its quote (CommonMark 0.31, 5.1). HTML is shown as text, but for what is
// code.
type markdown struct{}

func (*markdown) mime() (string, string) { return "text/markdown; charset=utf-8", ".md" }

func (*markdown) begin(dst []byte, t *threads.Thread) []byte {
	title := t.Title
	if strings.TrimSpace(title) == "" {
		title = "Thread " + string(t.ID)
	}
	dst = fmt.Appendf(dst, "# %s\n\nThread `%s`, made %s\n", plainText(title), t.ID, t.CreatedAt.UTC().Format(time.RFC3339))
	if t.Description != "" {
		dst = quote(append(dst, '\n'), t.Description)
	}
	return dst
}

func (*markdown) message(dst []byte, _ *threads.Thread, m *threads.Message) []byte {
	about := []string{m.Role, m.CreatedAt.UTC().Format(time.RFC3339)}
	from := gjson.GetManyBytes(m.Meta, "provider", "model_served", "model_requested")
	if from[1].Str == "" {
		from[1] = from[2]
	}
	for _, s := range []string{from[0].Str, from[1].Str} {
		if s != "" {
			about = append(about, plainText(s))
		}
	}
	if m.Status != threads.Complete {
		about = append(about, "incomplete: "+plainText(m.Reason))
	}
	dst = fmt.Appendf(dst, "\n## %d. %s\n", m.Seq, strings.Join(about, " · "))
	said := gjson.ParseBytes(m.Raw)
	if of := said.Get("tool_call_id"); of.Type == gjson.String {
		dst = fmt.Appendf(dst, "\nResult of the tool call %s\n", plainText(of.Str))
	}
	content := said.Get("content")
	if content.IsArray() {
		content.ForEach(func(_, part gjson.Result) bool { dst = contentPart(dst, part); return true })
	} else if content.Type == gjson.String && content.Str != "" {
		dst = quote(append(dst, '\n'), content.Str)
	}
	if refusal := said.Get("refusal"); refusal.Type == gjson.String && refusal.Str != "" {
		dst = quote(append(dst, "\nRefused:\n\n"...), refusal.Str)
	}
	for _, name := range []string{"tool_calls", "function_call"} {
		if called := said.Get(name); called.IsArray() || called.IsObject() {
			dst = fence(append(dst, "\nTool calls:\n\n"...), called.Raw)
		}
	}
	return dst
}

// contentPart writes one part of a content: text as it is, an image as a link if it has an address, and the name of all
// else.
func contentPart(dst []byte, part gjson.Result) []byte {
	kind := part.Get("type").Str
	switch text := part.Get(kind); {
	case (kind == "text" || kind == "refusal") && text.Type == gjson.String:
		return quote(append(dst, '\n'), text.Str)
	case kind == "image_url":
		return image(append(dst, '\n'), part.Get("image_url.url").Str)
	default:
		return fmt.Appendf(dst, "\n(a part of the type %s)\n", plainText(kind))
	}
}

func image(dst []byte, url string) []byte {
	switch {
	case strings.HasPrefix(url, "https://"), strings.HasPrefix(url, "http://"):
		return fmt.Appendf(dst, "[image](<%s>)\n", linkTarget(url))
	case strings.HasPrefix(url, "data:"):
		kind, data, _ := strings.Cut(strings.TrimPrefix(url, "data:"), ",")
		kind, _, _ = strings.Cut(kind, ";")
		return fmt.Appendf(dst, "(an image in the message itself, %s, %d characters)\n", plainText(clipped(kind, 64)), len(data))
	}
	return append(dst, "(an image without an address of its own)\n"...)
}

func clipped(s string, most int) string {
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// linkTarget escapes what could end a link's target in angle brackets.
func linkTarget(url string) string {
	var b strings.Builder
	for i := range len(url) {
		if c := url[i]; c <= ' ' || c == '<' || c == '>' || c == '\\' || c == 0x7f {
			fmt.Fprintf(&b, "%%%02X", c)
			continue
		}
		b.WriteByte(url[i])
	}
	return b.String()
}

// plainText writes s as one line in which nothing means anything.
func plainText(s string) string {
	var b strings.Builder
	for _, r := range strings.Join(strings.Fields(s), " ") {
		if r < ' ' || r == 0x7f {
			continue
		}
		if r < 0x7f && strings.ContainsRune("\\`*_{}[]()<>#+-.!|~&$", r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

var lineBreaks = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\x00", "\uFFFD")

// quote writes s as a block quote.
func quote(dst []byte, s string) []byte {
	s = lineBreaks.Replace(s)
	code, sure := "", true // the fence that is open
	for line := range strings.SplitSeq(strings.TrimRight(s, "\n"), "\n") {
		opening := fenceOf(line)
		switch {
		case code != "":
			if closes(line, code) {
				code = ""
			}
		case sure && opening != "":
			code = opening
		default: // a fence that may belong to a list, and end with it, or be none: from here on nothing counts as code
			sure = sure && !strings.Contains(line, "```") && !strings.Contains(line, "~~~")
			line = withoutHTML(line)
		}
		dst = append(append(append(dst, "> "...), line...), '\n')
	}
	return dst
}

// fenceOf returns the fence of code that line opens at its very beginning, "" if it opens none.
func fenceOf(line string) string {
	for _, c := range []string{"`", "~"} {
		rest := strings.TrimLeft(line, c)
		if n := len(line) - len(rest); n >= 3 && (c == "~" || !strings.Contains(rest, "`")) {
			return line[:n]
		}
	}
	return ""
}

func closes(line, fence string) bool {
	inner := strings.TrimLeft(strings.TrimRight(line, " \t"), " ")
	return len(line)-len(strings.TrimLeft(line, " ")) <= 3 && len(inner) >= len(fence) && strings.Trim(inner, fence[:1]) == ""
}

// withoutHTML escapes what would begin a tag, a comment or the like. In code within a line the escape is seen.
func withoutHTML(line string) string {
	var b strings.Builder
	for i := range len(line) {
		if line[i] == '<' && i+1 < len(line) && (line[i+1] == '/' || line[i+1] == '!' || line[i+1] == '?' || wordByte(line[i+1])) {
			b.WriteString("&lt;")
			continue
		}
		b.WriteByte(line[i])
	}
	return b.String()
}

// fence writes JSON as a block of code.
func fence(dst []byte, raw string) []byte {
	var pretty bytes.Buffer
	if json.Indent(&pretty, []byte(raw), "", "  ") != nil {
		pretty.Reset()
		pretty.WriteString(strconv.Quote(raw))
	}
	ticks := "```"
	for strings.Contains(raw, ticks) {
		ticks += "`"
	}
	return fmt.Appendf(dst, "%sjson\n%s\n%s\n", ticks, pretty.Bytes(), ticks)
}
