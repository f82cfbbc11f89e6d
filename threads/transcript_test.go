package threads_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"threadhub/internal/id"
	"threadhub/threads"
)

// told writes transcripts as lines: the thread, its title, what is said, and what is wrong with it.
func told(list []*threads.Transcript, bad []threads.BadLine) string {
	var b strings.Builder
	for _, t := range list {
		name := t.ID
		if strings.HasPrefix(string(name), "import-") {
			name = "import-"
		}
		fmt.Fprintf(&b, "%s %q", name, t.Title)
		if !t.Made.IsZero() {
			fmt.Fprintf(&b, " @%d", t.Made.Unix())
		}
		for i, m := range t.Messages {
			fmt.Fprintf(&b, "; %s", m.Raw)
			if m.Seq != i {
				fmt.Fprintf(&b, " SEQ %d", m.Seq)
			}
			if !m.CreatedAt.IsZero() {
				fmt.Fprintf(&b, " @%d", m.CreatedAt.Unix())
			}
			if m.Status != threads.Complete {
				fmt.Fprintf(&b, " %s:%s", m.Status, m.Reason)
			}
			if m.Meta != nil {
				fmt.Fprintf(&b, " %s", m.Meta)
			}
		}
		if t.Warnings > 0 {
			fmt.Fprintf(&b, "; %d warnings", t.Warnings)
		}
		if t.Bad {
			b.WriteString("; bad")
		}
		b.WriteString("\n")
	}
	for _, l := range bad {
		fmt.Fprintf(&b, "line %d %s\n", l.Line, l.Text)
	}
	return b.String()
}

func TestReadJSONLines(t *testing.T) {
	for name, tt := range map[string]struct{ in, want string }{
		"nothing":           {"\n \n", ""},
		"a thread":          {`{"role":"user","content":"hi"}` + "\r\n\n" + `{"role":"assistant","content":"yes"}`, `import- ""; {"role":"user","content":"hi"}; {"role":"assistant","content":"yes"}` + "\n"},
		"a byte order mark": {"\ufeff" + `{"role":"user","content":"hi"}`, `import- ""; {"role":"user","content":"hi"}` + "\n"},
		"mixed": {
			`{"thread_id":"a","role":"user","content":"1"}` + "\n" + `{"thread_id":"b","role":"user","content":"2","title":"B"}` + "\n" + `{"thread_id":"a","role":"user","content":"3","title":"A"}`,
			`a "A"; {"role":"user","content":"1"}; {"role":"user","content":"3"}` + "\n" + `b "B"; {"role":"user","content":"2"}` + "\n",
		},
		"what others have": {
			`{"role":"tool","tool_call_id":"c","content":[{"type":"text","text":"x"}],"custom":[1, 2]}` + "\n" + `{"role":"assistant","content":null,"tool_calls":[{"id":"c"}]}`,
			`import- ""; {"role":"tool","tool_call_id":"c","content":[{"type":"text","text":"x"}],"custom":[1, 2]}; {"role":"assistant","content":null,"tool_calls":[{"id":"c"}]}` + "\n",
		},
		"times": {
			`{"role":"user","content":"1","created_at":"2026-01-02T03:04:05Z"}` + "\n" + `{"role":"user","content":"2","created_at":1767323046.5}` + "\n" + `{"role":"user","content":"3","created_at":null}`,
			`import- "" @1767323045; {"role":"user","content":"1"} @1767323045; {"role":"user","content":"2"} @1767323046; {"role":"user","content":"3"}` + "\n",
		},
		"our own": {
			`{"thread_id":"a","message_id":"msg_1","sequence":1,"role":"assistant","status":"incomplete","incomplete_reason":"client_closed","created_at":"2026-01-02T03:04:05Z","request_id":"req_1","provider":"openai","attempts":2,"usage":{"prompt_tokens":1},"cost_usd":"0.1","content":"x","refusal":null}`,
			`a "" @1767323045; {"role":"assistant","content":"x","refusal":null} @1767323045 incomplete:client_closed {"request_id":"req_1","provider":"openai","attempts":2,"usage":{"prompt_tokens":1},"cost_usd":"0.1"}` + "\n",
		},
		"provenance is of answers": {`{"role":"user","content":"x","provider":"me"}`, `import- ""; {"role":"user","content":"x","provider":"me"}` + "\n"},
		"a bad line": {
			`{"thread_id":"a","role":"user","content":"1"}` + "\n{\n" + `{"thread_id":"b","role":"user","content":"2"}`,
			`a ""; {"role":"user","content":"1"}; bad` + "\n" + `b ""; {"role":"user","content":"2"}` + "\nline 2 is not a JSON object\n",
		},
		"a bad line first":         {"x\n" + `{"role":"user","content":"2"}`, `import- ""; {"role":"user","content":"2"}; bad` + "\nline 1 is not a JSON object\n"},
		"nothing but a bad line":   {"x\n", "import- \"\"; bad\nline 1 is not a JSON object\n"},
		"a bad line of a thread":   {`{"thread_id":"a","role":"user","content":"1"}` + "\n" + `{"thread_id":"b","role":"king"}`, `a ""; {"role":"user","content":"1"}` + "\nb \"\"; bad\nline 2 has a role that is none of user, assistant, system, developer, tool and function\n"},
		"no role":                  {`{"content":"1"}`, "import- \"\"; bad\nline 1 has a role that is none of user, assistant, system, developer, tool and function\n"},
		"a list":                   {`[]`, "import- \"\"; bad\nline 1 is not a JSON object\n"},
		"content a number":         {`{"role":"user","content":1}`, "import- \"\"; bad\nline 1 has a content that is neither text nor a list of parts\n"},
		"content twice":            {`{"role":"user","content":"1","content":"2"}`, "import- \"\"; bad\nline 1 is not a JSON object\n"},
		"title a number":           {`{"role":"user","content":"1","title":1}`, "import- \"\"; bad\nline 1 has a title that is not text\n"},
		"a thread of a bad name":   {`{"thread_id":"a/b","role":"user","content":"1"}`, "a/b \"\"; bad\nline 1 has a thread_id that is none: 1 to 128 of A-Z a-z 0-9 . _ : -\n"},
		"a pending answer":         {`{"role":"assistant","content":null,"status":"pending"}`, "import- \"\"; bad\nline 1 has a status that is neither complete nor, of an answer, incomplete\n"},
		"an incomplete question":   {`{"role":"user","content":"x","status":"incomplete"}`, "import- \"\"; bad\nline 1 has a status that is neither complete nor, of an answer, incomplete\n"},
		"a time to come":           {`{"role":"user","content":"x","created_at":"2999-01-01T00:00:00Z"}`, "import- \"\"; bad\nline 1 has a created_at that is no time in the past\n"},
		"a time that is none":      {`{"role":"user","content":"x","created_at":"yesterday"}`, "import- \"\"; bad\nline 1 has a created_at that is no time in the past\n"},
		"provenance of its own":    {`{"role":"assistant","content":"x","attempts":"many"}`, "import- \"\"; bad\nline 1 says in a way of its own where the answer came from (provider, usage, cost_usd, …)\n"},
		"bytes that are not UTF-8": {`{"role":"user","content":"` + "\xff" + `"}`, "import- \"\"; bad\nline 1 is not a JSON object\n"},
	} {
		list, bad, err := threads.ReadJSONLines(iotest.OneByteReader(strings.NewReader(tt.in)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tt.want, told(list, bad)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
}

// Of two things that are wrong with a line the same one is named each time.
func TestWhatIsWrongWithALineIsSaidAlike(t *testing.T) {
	for range 50 {
		_, bad, err := threads.ReadJSONLines(strings.NewReader(`{"status":1,"role":1,"title":1}`))
		if err != nil || len(bad) != 1 || bad[0].Text != "has a title that is not text" {
			t.Fatalf("%v, %v", bad, err)
		}
	}
}

func TestReadLongLines(t *testing.T) {
	line := func(n int) io.Reader {
		return io.MultiReader(strings.NewReader(`{"role":"user","content":"`), io.LimitReader(xs{}, int64(n)), strings.NewReader("\"}\n"))
	}
	list, bad, err := threads.ReadJSONLines(io.MultiReader(line(1<<20), line(threads.MaxLine), line(1)))
	if err != nil || len(list) != 1 || len(list[0].Messages) != 2 || !list[0].Bad || len(bad) != 1 || bad[0].Line != 2 || bad[0].Text != "is longer than 20 MiB" {
		t.Errorf("%d transcripts, %v, %v", len(list), bad, err)
	}
	if _, _, err := threads.ReadJSONLines(iotest.ErrReader(errors.New("broken"))); err == nil {
		t.Error("a reader that fails is read")
	}
}

type xs struct{}

func (xs) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// A thread without a name has one made of what it says.
func TestNamelessTranscripts(t *testing.T) {
	name := func(in string) id.Thread {
		list, bad, err := threads.ReadJSONLines(strings.NewReader(in))
		if err != nil || len(bad) > 0 || len(list) != 1 || !id.ValidThread(string(list[0].ID)) {
			t.Fatalf("%v, %v, %v", list, bad, err)
		}
		return list[0].ID
	}
	a := name(`{"role":"user","content":"x"}`)
	if a != name(` { "content" : "x", "role":"user"}`) || a == name(`{"role":"user","content":"y"}`) || a == name(`{"role":"assistant","content":"x"}`) {
		t.Error("names do not tell what is said")
	}
}

func TestReadAssistants(t *testing.T) {
	const (
		first  = `{"id":"msg_1","object":"thread.message","created_at":1767323045,"thread_id":"thread_a","role":"user","content":[{"type":"text","text":{"value":"What is <b>?","annotations":[]}}],"attachments":[],"metadata":{"title":"Bold"},"status":null}`
		second = `{"id":"msg_2","object":"thread.message","created_at":1767323050,"thread_id":"thread_a","role":"assistant","content":[{"type":"text","text":{"value":"A tag.","annotations":[{"type":"file_citation"}]}},{"type":"image_file","image_file":{"file_id":"file-9"}}],"run_id":"run_1","status":"completed"}`
		third  = `{"id":"msg_3","object":"thread.message","created_at":1767323050,"thread_id":"thread_a","role":"user","content":[{"type":"image_url","image_url":{"url":"https://x.test/i.png","detail":"low"}},{"type":"hologram"}],"attachments":[{"file_id":"file-1"}]}`
		fourth = `{"id":"msg_4","object":"thread.message","created_at":1767323060,"thread_id":"thread_a","role":"assistant","content":[],"status":"incomplete","incomplete_details":{"reason":"max_tokens"}}`

		want = `thread_a "Bold" @1767323045; {"role":"user","content":"What is <b>?"} @1767323045; ` +
			`{"role":"assistant","content":[{"type":"text","text":"A tag."},{"type":"text","text":"[image_file file-9]"}]} @1767323050; ` +
			`{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x.test/i.png","detail":"low"}},{"type":"text","text":"[a part of the type hologram]"}]} @1767323050; ` +
			`{"role":"assistant","content":""} @1767323060 incomplete:max_tokens; 4 warnings` + "\n"
	)
	list := func(m ...string) string {
		return `{"object":"list","data":[` + strings.Join(m, ",\n ") + `],"has_more":false}`
	}
	for name, tt := range map[string]struct{ in, want string }{
		"a list":              {list(fourth, third, second, first), want},
		"a list, old first":   {list(first, second, third, fourth), want},
		"a list, in lines":    {strings.ReplaceAll(list(fourth, third, second, first), `{"object":"list"`, "{\n \"object\": \"list\""), want},
		"an array":            {"[" + strings.Join([]string{fourth, third, second, first}, ",") + "]", want},
		"lines":               {strings.Join([]string{first, second, third, fourth}, "\n"), want},
		"lines, newest first": {strings.Join([]string{fourth, third, second, first}, "\n"), want},
		"two pages":           {list(fourth, third) + "\n" + list(second, first), want},
		"with its thread": {
			`{"thread":{"id":"thread_b","object":"thread","created_at":1767323000,"metadata":{"title":"B"}},"messages":` + list(`{"role":"user","content":"plain","created_at":1767323045}`) + `}`,
			`thread_b "B" @1767323000; {"role":"user","content":"plain"} @1767323045` + "\n",
		},
		"a thread, then its messages": {
			`{"id":"thread_a","object":"thread","created_at":1767323000,"metadata":{"title":"Named"}}` + "\n" + first,
			`thread_a "Named" @1767323000; {"role":"user","content":"What is <b>?"} @1767323045` + "\n",
		},
		"a bad line": {
			first + "\n{\"object\":\n" + strings.ReplaceAll(first, "thread_a", "thread_b"),
			`thread_a "Bold" @1767323045; {"role":"user","content":"What is <b>?"} @1767323045; bad` + "\n" +
				`thread_b "Bold" @1767323045; {"role":"user","content":"What is <b>?"} @1767323045` + "\nline 2 is not JSON\n",
		},
		"a bad message in a list": {
			list(strings.ReplaceAll(first, "thread_a", "thread_b"), strings.ReplaceAll(first, `"user"`, `"king"`)),
			`thread_b "Bold" @1767323045; {"role":"user","content":"What is <b>?"} @1767323045` + "\nthread_a \"\"; bad\nline 2 has a role that is none of user, assistant, system, developer, tool and function\n",
		},
		"a bad name":     {strings.ReplaceAll(first, "thread_a", "a/b"), "a/b \"Bold\" @1767323045; {\"role\":\"user\",\"content\":\"What is <b>?\"} @1767323045; bad\nline 1 has a thread_id that is none: 1 to 128 of A-Z a-z 0-9 . _ : -\n"},
		"a number":       {"7", "import- \"\"; bad\nline 1 is no message, list or thread of the Assistants API\n"},
		"no list":        {`{"messages":7}`, "import- \"\"; bad\nline 1 has messages that are not in a list\n"},
		"something else": {`{"object":"run"}`, "import- \"\"; bad\nline 1 is no message, list or thread of the Assistants API\n"},
		"no content":     {`{"role":"user"}`, "import- \"\"; bad\nline 1 has a content that is neither text nor a list of parts\n"},
		"nothing":        {"", ""},
	} {
		list, bad, err := threads.ReadAssistants(strings.NewReader(tt.in))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tt.want, told(list, bad)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
}

// Whatever is read, what comes of it can be stored, or is said to be bad.
func FuzzTranscripts(f *testing.F) {
	for _, s := range []string{"", "{}", "[]", `{"role":"user","content":"x"}`, `{"object":"list","data":[{"role":"user","content":[{"type":"text","text":{"value":"x"}}]}]}`, `{"messages":[{}]}`, "\x00", `{"role":"user","content":"\u0000","title":"\u0000"}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, read := range []func(io.Reader) ([]*threads.Transcript, []threads.BadLine, error){threads.ReadJSONLines, threads.ReadAssistants} {
			list, bad, err := read(strings.NewReader(s))
			if err != nil {
				t.Fatal(err)
			}
			for _, tr := range list {
				if tr.Bad && len(bad) == 0 || !tr.Bad && !id.ValidThread(string(tr.ID)) || strings.Contains(tr.Title, "\x00") {
					t.Errorf("%q: %+v, %v", s, tr, bad)
				}
				for i, m := range tr.Messages {
					if m.Seq != i || len(m.Own) != 32 || m.Role == "" || strings.Contains(m.Reason, "\x00") || strings.Contains(string(m.Raw), "\x00") {
						t.Errorf("%q: %+v", s, m)
					}
				}
			}
		}
	})
}
