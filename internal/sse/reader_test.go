package sse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// event is an Event whose data is kept.
type event struct {
	Name, ID, Data string
	Unterminated   bool
}

func readAll(r io.Reader, max int) (events []event, comments int64, err error) {
	rd := NewReader(r, max)
	for {
		e, err := rd.Next()
		if err != nil {
			return events, rd.Comments(), err
		}
		events = append(events, event{e.Name, e.ID, string(e.Data), e.Unterminated})
	}
}

func TestReader(t *testing.T) {
	data := func(s ...string) (out []event) {
		for _, d := range s {
			out = append(out, event{Data: d})
		}
		return out
	}
	f := func(name, in string, want []event) {
		t.Helper()
		got, _, err := readAll(strings.NewReader(in), 0)
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s: error %v, want EOF", name, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: (-want +got)\n%s", name, d)
		}
	}
	f("nothing", "", nil)
	f("LF", "data: a\n\ndata: b\n\n", data("a", "b"))
	f("CRLF", "data: a\r\n\r\ndata: b\r\n\r\n", data("a", "b"))
	f("CR", "data: a\r\rdata: b\r\r", data("a", "b"))
	f("each line its own end", "data: a\r\ndata: b\rdata: c\n\r\n", data("a\nb\nc"))
	f("one space is removed, not two", "data:a\n\ndata:  b\n\n", data("a", " b"))
	f("byte order mark at the start", "\xEF\xBB\xBFdata: a\n\n", data("a"))
	f("only one is skipped", "\xEF\xBB\xBF\xEF\xBB\xBFdata: a\n\n", nil)
	f("a mark later is part of the field name", "data: a\n\n\xEF\xBB\xBFdata: b\n\n", data("a"))
	f("half a mark", "\xEF\xBB", nil)
	f("no data, no event", "event: ping\nid: 1\n\ndata: x\n\n", []event{{ID: "1", Data: "x"}})
	f("empty data is an event", "data\n\ndata:\n\ndata\ndata\n\n", data("", "", "\n"))
	f("name holds for one event, id for all after it", "event: e\nid: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n",
		[]event{{"e", "1", "a", false}, {"", "1", "b", false}, {"", "", "c", false}})
	f("the last name counts", "event: a\nevent: b\ndata: x\n\nevent: a\nevent:\ndata: x\n\n", []event{{Name: "b", Data: "x"}, {Data: "x"}})
	f("id with NUL is ignored", "id: 1\nid: 2\x00\ndata: a\n\n", []event{{ID: "1", Data: "a"}})
	f("comments and unknown fields", ": c\n:\ndata: a\nretry: 5\nfoo: bar\nDATA: x\n data: y\n: in between\ndata: b\n\n", data("a\nb"))
	f("NUL and invalid UTF-8 in data are passed on", "data: \x00\xff\n\n", data("\x00\xff"))
	f("line without its end", "data: a\n\ndata: [DONE]", []event{{Data: "a"}, {Data: "[DONE]", Unterminated: true}})
	f("event without its blank line", "data: [DONE]\n", []event{{Data: "[DONE]", Unterminated: true}})
	f("cut in a comment", "data: a\n: com", []event{{Data: "a", Unterminated: true}})
	f("cut after a field without data", "event: x\nid: 3", nil)
	f("JSON is not an event stream", `{"error":"x"}`, nil)
}

func TestReaderFixtures(t *testing.T) {
	want := map[string]string{
		"bom_crlf": "A|[DONE]", "cr_only": "A|B|[DONE]", "empty": "", "fields_and_comments": "A|{}||[DONE]", "json_instead": "", "long_line": "long|[DONE]",
		"multi_line_data": "A|[DONE]", "no_final_blank_line": "A|[DONE]", "no_space_after_colon": "A|[DONE]",
	}
	files, err := filepath.Glob("testdata/*.sse")
	if err != nil || len(files) != len(want) {
		t.Fatalf("%d fixtures, %v; want %d", len(files), err, len(want))
	}
	for _, file := range files {
		in, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		events, _, err := readAll(bytes.NewReader(in), 0)
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", file, err)
		}
		var got []string
		for _, e := range events {
			// The chunks differ only in their content, "A" or "B".
			switch {
			case strings.Contains(e.Data, `"content":"A"`), strings.Contains(e.Data, `"content": "A"`):
				got = append(got, "A")
			case strings.Contains(e.Data, `"content":"B"`):
				got = append(got, "B")
			case len(e.Data) > 190_000:
				got = append(got, "long")
			default:
				got = append(got, e.Data)
			}
		}
		if name := strings.TrimSuffix(filepath.Base(file), ".sse"); strings.Join(got, "|") != want[name] {
			t.Errorf("%s: %q, want %q", name, got, want[name])
		}
	}
}

func TestCommentsAreCounted(t *testing.T) {
	_, n, _ := readAll(strings.NewReader(": a\n\n: b\n\ndata: x\n:c\n\n"), 0)
	if n != 3 {
		t.Errorf("%d comments, want 3", n)
	}
}

// Lines that no server writes are skipped, as the standard says, and told of.
func TestNoiseIsTold(t *testing.T) {
	for in, want := range map[string]bool{
		"data: x\n\n": false, ": \xff\n\ndata: \xff\n\n": false, "retry: 1\nx-new_field2: a b\ndata: x\n\n": false, "data\n\n": false,
		"\x00\xfe\ndata: x\n\n": true, "data: x\n\n<html>\n\n": true, "two words\n\n": true, "{\"a\":1}\n\n": true, "d\u00e4ta: x\n\n": true,
	} {
		r := NewReader(strings.NewReader(in), 0)
		var err error
		for err == nil {
			_, err = r.Next()
		}
		if r.Noise() != want || !errors.Is(err, io.EOF) {
			t.Errorf("%q: noise %v, %v; want %v", in, r.Noise(), err, want)
		}
	}
}

// What is no event is kept, as it stood, from its first line on, and no more of it than is of use.
func TestStrayLinesAreKept(t *testing.T) {
	pretty := "{\n  \"error\": {\n    \"code\": 500\n  }\n}\n"
	for in, want := range map[string]string{
		"data: x\n\nretry: 1\n\n":                                  "",
		"data: x\n\n" + pretty:                                     pretty,
		"data: x\n\n" + pretty + "data: y\n\n":                     pretty,
		strings.ReplaceAll(pretty, "\n", "\r\n"):                   pretty,
		"{\n" + strings.Repeat(strings.Repeat("x", 99)+"\n", 1000): "{\n" + strings.Repeat(strings.Repeat("x", 99)+"\n", 163),
	} {
		for name, from := range map[string]io.Reader{"whole": strings.NewReader(in), "by byte": iotest.OneByteReader(strings.NewReader(in))} {
			r := NewReader(from, 0)
			var err error
			for err == nil {
				_, err = r.Next()
			}
			if got := string(r.Stray()); got != want {
				t.Errorf("%.40q, %s: kept %d bytes %.100q, want %d", in, name, len(got), got, len(want))
			}
		}
	}
}

func TestTooLong(t *testing.T) {
	f := func(in string, max, events int, want error) {
		t.Helper()
		for name, r := range map[string]io.Reader{"whole": strings.NewReader(in), "by byte": iotest.OneByteReader(strings.NewReader(in))} {
			got, _, err := readAll(r, max)
			if !errors.Is(err, want) || len(got) != events {
				t.Errorf("%.30q max %d, %s: %d events, %v; want %d, %v", in, max, name, len(got), err, events, want)
			}
		}
	}
	long := strings.Repeat("x", 200_000)
	f("data: "+long+"\n\n", 200_006, 1, io.EOF)
	f("data: "+long+"\n\n", 200_005, 0, ErrTooLong)
	f("data: a\n\ndata: "+long+"\n\n", 1000, 1, ErrTooLong)
	f(": "+long, 1000, 0, ErrTooLong) // an endless comment
	f(long, 1000, 0, ErrTooLong)      // no field, no end
	f("id: "+long+"\n", 1000, 0, ErrTooLong)
	f(strings.Repeat("data: x\n", 30)+"\n", 70, 1, io.EOF) // 59 bytes of data, and lines of 7 after at most 57
	f(strings.Repeat("data: x\n", 30)+"\n", 63, 0, ErrTooLong)
	f(strings.Repeat("data\n", 1_000_000), 1000, 0, ErrTooLong) // endless event of short lines
	f(strings.Repeat(":\n", 1_000_000), 1000, 0, io.EOF)
}

func TestTooLongStays(t *testing.T) {
	r := NewReader(strings.NewReader(strings.Repeat("x", 100)+"\n\ndata: a\n\n"), 10)
	for range 3 {
		if _, err := r.Next(); !errors.Is(err, ErrTooLong) {
			t.Fatalf("error %v, want ErrTooLong", err)
		}
	}
}

func TestMemoryStaysUnderCap(t *testing.T) {
	endless := io.MultiReader(strings.NewReader("data: "), zeros{})
	r := NewReader(endless, 1<<20)
	if _, err := r.Next(); !errors.Is(err, ErrTooLong) {
		t.Fatalf("error %v, want ErrTooLong", err)
	}
	if len(r.buf) > 1<<20+slack {
		t.Errorf("buffer of %d bytes", len(r.buf))
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

func TestReadErrorsArePassedOn(t *testing.T) {
	broken := errors.New("reset")
	got, _, err := readAll(io.MultiReader(strings.NewReader("data: a\n\ndata: b"), iotest.ErrReader(broken)), 0)
	if !errors.Is(err, broken) || len(got) != 1 || got[0].Data != "a" {
		t.Errorf("%v, %v", got, err)
	}
	got, _, err = readAll(iotest.DataErrReader(strings.NewReader("data: a\n\n")), 0)
	if !errors.Is(err, io.EOF) || len(got) != 1 {
		t.Errorf("data with EOF in one read: %v, %v", got, err)
	}
	if _, _, err = readAll(stuck{}, 0); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a reader that does nothing: %v", err)
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

// scripted gives one part a read, and fails the test when it is read more often than it has parts.
type scripted struct {
	t     *testing.T
	parts []string
}

func (s *scripted) Read(p []byte) (int, error) {
	if len(s.parts) == 0 {
		s.t.Error("read though nothing was expected to be needed")
		return 0, io.EOF
	}
	n := copy(p, s.parts[0])
	s.parts = s.parts[1:]
	return n, nil
}

func TestReady(t *testing.T) {
	r := NewReader(&scripted{t, []string{"data: a\n\ndata: b\r\r: c\n\ndata", ": c\n\n"}}, 0)
	if r.Ready() {
		t.Error("ready before anything was read")
	}
	next := func(want string, ready bool) {
		t.Helper()
		e, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Ready(); got != ready {
			t.Errorf("after %q ready is %v", want, got)
		}
		if string(e.Data) != want { // Ready left it alone
			t.Errorf("data %q, want %q", e.Data, want)
		}
	}
	next("a", true)
	next("b", false)
	next("c", false)
}

// A CR ends a line at once: whether an LF follows must not be waited for.
func TestCRDoesNotWait(t *testing.T) {
	r := NewReader(&scripted{t, []string{"data: a\r\r", "\ndata: b\r\n\r\n"}}, 0)
	for _, want := range []string{"a", "b"} {
		if e, err := r.Next(); err != nil || string(e.Data) != want {
			t.Fatalf("%q, %v; want %q", e.Data, err, want)
		}
	}
}

// chunked cuts what it reads at random places.
type chunked struct {
	b   []byte
	rnd *rand.Rand
}

func (c *chunked) Read(p []byte) (int, error) {
	if len(c.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.b[:min(len(c.b), 1+c.rnd.IntN(20))])
	c.b = c.b[n:]
	return n, nil
}

// oracle reads a whole stream the slow way, by the letter of the standard.
func oracle(in string) (out []event) {
	in = strings.TrimPrefix(in, "\xEF\xBB\xBF")
	in = strings.ReplaceAll(strings.ReplaceAll(in, "\r\n", "\n"), "\r", "\n")
	var data []string
	var name, id string
	lines := strings.Split(in, "\n")
	for i, line := range lines {
		end := i == len(lines)-1
		if line != "" {
			field, value, _ := strings.Cut(line, ":")
			value = strings.TrimPrefix(value, " ")
			switch field {
			case "data":
				data = append(data, value)
			case "event":
				name = value
			case "id":
				if !strings.Contains(value, "\x00") {
					id = value
				}
			}
		}
		if line == "" || end {
			if data != nil {
				out = append(out, event{name, id, strings.Join(data, "\n"), end})
			}
			data, name = nil, ""
		}
	}
	return out
}

func check(t interface {
	Helper()
	Fatalf(string, ...any)
}, in []byte, seed uint64,
) {
	t.Helper()
	want := oracle(string(in))
	rnd := rand.New(rand.NewPCG(seed, 1))
	for name, r := range map[string]io.Reader{
		"whole": bytes.NewReader(in), "by byte": iotest.OneByteReader(bytes.NewReader(in)), "random": &chunked{in, rnd},
	} {
		got, _, err := readAll(r, len(in)+1)
		if !errors.Is(err, io.EOF) {
			t.Fatalf("%s: %v", name, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("%s of %q: (-want +got)\n%s", name, in, d)
		}
	}
}

func TestAnyChunkingGivesTheSameEvents(t *testing.T) {
	piece := rapid.SampledFrom([]string{"\n", "\r", "\r\n", "\n\n", "data", "data:", "data: ", "event: ", "id: ", ":", " ", "x", "[DONE]", "\x00", "\xEF\xBB\xBF", "\xEF", "é", strings.Repeat("y", 5000)})
	rapid.Check(t, func(t *rapid.T) {
		in := strings.Join(rapid.SliceOfN(piece, 0, 60).Draw(t, "pieces"), "")
		check(t, []byte(in), rapid.Uint64().Draw(t, "seed"))
	})
}

func FuzzReader(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.sse")
	for _, file := range files {
		in, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(in, uint64(1), 100)
	}
	f.Fuzz(func(t *testing.T, in []byte, seed uint64, max int) {
		check(t, in, seed)
		// With a cap, too, the cuts do not matter.
		max = max%300 + 301
		rnd := rand.New(rand.NewPCG(seed, 2))
		a, n, errA := readAll(bytes.NewReader(in), max)
		b, m, errB := readAll(&chunked{in, rnd}, max)
		if !errors.Is(errA, errB) || n != m || !cmp.Equal(a, b) {
			t.Fatalf("cap %d: %v %d %v against %v %d %v", max, a, n, errA, b, m, errB)
		}
	})
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var wire []byte
		var want []event
		for i := range rapid.IntRange(0, 5).Draw(t, "events") {
			payload := rapid.SliceOf(rapid.SampledFrom([]byte("ab:\r\n \x00\xff"))).Draw(t, "payload")
			wire = AppendComment(wire, fmt.Sprint("note\n", i))
			wire = AppendData(wire, payload)
			norm := strings.ReplaceAll(strings.ReplaceAll(string(payload), "\r\n", "\n"), "\r", "\n")
			want = append(want, event{Data: norm})
		}
		got, comments, err := readAll(bytes.NewReader(wire), 0)
		if !errors.Is(err, io.EOF) || comments != int64(2*len(want)) || !cmp.Equal(want, got) {
			t.Fatalf("%q: %v, %d comments, %v", wire, got, comments, err)
		}
	})
}

func TestAppend(t *testing.T) {
	if got := string(AppendData(nil, []byte(`{"a":1}`))); got != "data: {\"a\":1}\n\n" {
		t.Errorf("%q", got)
	}
	if got := string(AppendData(nil, []byte("a\r\nb\rc\n"))); got != "data: a\ndata: b\ndata: c\ndata: \n\n" {
		t.Errorf("%q", got)
	}
	if got := string(AppendComment(nil, "hb")); got != ": hb\n\n" {
		t.Errorf("%q", got)
	}
}

// loop gives the same bytes for ever, as a socket with much to read does.
type loop struct {
	b []byte
	i int
}

func (l *loop) Read(p []byte) (int, error) {
	n := copy(p, l.b[l.i:])
	l.i = (l.i + n) % len(l.b)
	return n, nil
}

func BenchmarkNext(b *testing.B) {
	chunk := AppendData(nil, []byte(`{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1794700860,"model":"gpt-4.1-mini","choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"rA"}`))
	r := NewReader(&loop{b: chunk}, 0)
	b.SetBytes(int64(len(chunk)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Next(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestNextDoesNotAllocate(t *testing.T) {
	r := NewReader(&loop{b: []byte("event: message\nid: 7\ndata: {\"a\":1}\n\n: hb\n\n")}, 0)
	for range 1000 {
		if _, err := r.Next(); err != nil { // the buffer takes its size
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(1000, func() { _, _ = r.Next() }); n != 0 {
		t.Errorf("%v allocations an event", n)
	}
}
