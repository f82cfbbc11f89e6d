package upstreamstest

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"threadhub/internal/fault"
	"threadhub/upstreams"
)

// Fault is what a refusal must become, or how a stream must end. The zero Fault is no failure.
type Fault struct {
	Kind    fault.Kind
	Code    string
	Param   string
	Message string // a part of it
	Retry   time.Duration
	Final   bool
}

// Errors plays every recorded refusal in folder (*.http, a whole answer each) and checks what becomes of it. Each file
// must be in want, by its name without the ending.
func (s Subject) Errors(t *testing.T, folder string, want map[string]Fault) {
	Tabled(t, folder, ".http", want)
	for name, raw := range recorded(t, folder, ".http") {
		expected := want[name]
		for _, stream := range []bool{false, true} {
			_, err := s.open(t, Replies(t, raw)).Chat(t.Context(), ask(stream))
			expected.check(t, name, err)
			if f := upstreams.FailureOf(err); f.Status < 400 || !f.Sent || f.RetryAfter != fault.From(err).Retry && !fault.From(err).Final {
				t.Errorf("%s: the failure is %+v", name, f)
			}
		}
	}
}

// Streams plays every recorded stream in folder (*.sse, the bytes of the body): as it is, cut in two at each of its bytes,
// byte by byte, and ended after each byte. Each file must be in want, by its name without the ending. However it is cut,
// the same comes of it, and what ends too soon never ends well. Payloads in OpenAI's dialect come out as they went in.
func (s Subject) Streams(t *testing.T, folder string, want map[string]Fault) {
	Tabled(t, folder, ".sse", want)
	for name, raw := range recorded(t, folder, ".sse") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s.replay(t, raw, want[name])
		})
	}
}

// replayed is about how many bytes of one stream are read again: one that is too long for that is cut at fewer places.
const replayed = 64 << 20

func (s Subject) replay(t *testing.T, raw string, want Fault) {
	u := s.open(t, Serve(t, func(c *Conn) { t.Error("a recording asked somebody") }))
	whole, end := s.play(t, u, strings.NewReader(raw))
	if want != (Fault{}) {
		want.check(t, "the stream", end)
	} else if !errors.Is(end, io.EOF) {
		t.Fatalf("ended in %v", end)
	}
	if s.Wire == nil {
		in := payloadsOf(raw)
		if want != (Fault{}) && want.Code != "upstream_truncated" {
			in = in[:max(0, len(in)-1)] // the error itself
		}
		if !slices.Equal(whole, in) {
			t.Errorf("%q went in, and out came %q", in, whole)
		}
	}
	same := func(about string, from io.Reader) {
		if got, err := s.play(t, u, from); !alike(got, whole) || code(err) != code(end) {
			t.Fatalf("%s it is another stream: %q, which ended in %v", about, got, err)
		}
	}
	same("byte by byte", iotest.OneByteReader(strings.NewReader(raw)))
	cut := []string{"upstream_truncated", "upstream_protocol", code(end)}
	step := stride + len(raw)*len(raw)/replayed
	for n := 0; n < len(raw); n += step {
		same(fmt.Sprintf("cut at byte %d", n), io.MultiReader(strings.NewReader(raw[:n]), strings.NewReader(raw[n:])))
		got, err := s.play(t, u, strings.NewReader(raw[:n]))
		switch good := errors.Is(err, io.EOF); {
		case good && !s.wire().over(raw[:n]):
			t.Fatalf("a good end after byte %d", n)
		case good && !s.wire().Endless && !alike(got, whole):
			t.Fatalf("a good end after byte %d, of %q", n, got)
		case !good && !slices.Contains(cut, code(err)):
			t.Fatalf("after byte %d it ended in %v", n, err)
		case !good && !begins(got, whole):
			t.Fatalf("after byte %d it had said %q", n, got)
		}
	}
}

// begins reports whether a stream that was cut had said what the whole one says first. What it took so far may come after.
func begins(got, whole []string) bool {
	if n := len(got); n > 0 && strings.Contains(got[n-1], `"choices":[],"usage":{`) {
		got = got[:n-1]
	}
	return len(got) <= len(whole) && alike(got, whole[:len(got)])
}

// play has u read a stream from what is its body, and returns what it said and what ended it.
func (s Subject) play(t testing.TB, u client, body io.Reader) (payloads []string, err error) {
	t.Helper()
	r := askFor(s.More, true)
	if err := u.Translate(r); err != nil {
		t.Fatal(err)
	}
	a, err := u.Read(t.Context(), r, &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: io.NopCloser(body),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Stream.Close()
	return drain(a.Stream)
}

// alike reports whether two lists of payloads are the same, but for what is made anew each time.
func alike(a, b []string) bool {
	return slices.EqualFunc(a, b, func(a, b string) bool {
		return a == b || fresh.ReplaceAllString(a, "$1") == fresh.ReplaceAllString(b, "$1")
	})
}

// fresh is what a translation makes anew each time: the time, and names that the provider did not give.
var fresh = regexp.MustCompile(`("created":|call_|chatcmpl-)(?:[0-9]{10,}|[A-Z2-7]{24}\b)`)

// code is that of the fault a stream ended in; "" for a good end.
func code(err error) string {
	if errors.Is(err, io.EOF) {
		return ""
	}
	return cmp.Or(fault.From(err).Code, "none")
}

// payloadsOf are the data of the events in an event stream up to [DONE], read the slow way, by the letter of the standard.
func payloadsOf(raw string) (list []string) {
	raw = strings.TrimPrefix(raw, "\xEF\xBB\xBF")
	raw = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(raw)
	var data []string
	for line := range strings.SplitSeq(raw, "\n") {
		if value, ok := strings.CutPrefix(line, "data:"); ok {
			data = append(data, strings.TrimPrefix(value, " "))
		}
		if line != "" {
			continue
		}
		event := strings.Join(data, "\n")
		data = nil
		if event == "[DONE]" {
			return list
		}
		if event != "" {
			list = append(list, event)
		}
	}
	return list
}

// Answers plays every recorded whole answer in folder (*.resp.json) and checks that its bytes come out as they went in,
// but for those that fail. Each file must be in want, by its name without the ending.
func (s Subject) Answers(t *testing.T, folder string, want map[string]Fault) {
	Tabled(t, folder, ".resp.json", want)
	for name, raw := range recorded(t, folder, ".resp.json") {
		a, err := s.open(t, Replies(t, Reply("200 OK", raw, JSON))).Chat(t.Context(), ask(false))
		if expected := want[name]; expected != (Fault{}) {
			expected.check(t, name, err)
		} else if err != nil || string(a.Body) != raw {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func (want Fault) check(t testing.TB, name string, err error) {
	t.Helper()
	wantFault(t, name, err, want.Kind, want.Code)
	f := fault.From(err)
	if f == nil || f.Param != want.Param || !strings.Contains(f.Message, want.Message) || f.Final != want.Final || f.Retry != want.Retry {
		t.Errorf("%s: got %+v, want %+v", name, f, want)
	}
}

// recorded reads the files of folder that end so, by name without the ending.
func recorded(t testing.TB, folder, ending string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := fs.WalkDir(os.DirFS(folder), ".", func(path string, d fs.DirEntry, err error) error {
		name, ok := strings.CutSuffix(path, ending)
		if err != nil || !ok {
			return err
		}
		b, err := os.ReadFile(filepath.Join(folder, path))
		files[name] = string(b)
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("%s holds no %s: %v", folder, ending, err)
	}
	return files
}

// Tabled fails for a file of folder with this ending that the table says nothing of, and for a row without a file.
func Tabled[V any](t testing.TB, folder, ending string, table map[string]V) {
	t.Helper()
	files := recorded(t, folder, ending)
	for name := range files {
		if _, ok := table[name]; !ok {
			t.Errorf("%s/%s%s is in no table", folder, name, ending)
		}
	}
	for name := range table {
		if _, ok := files[name]; !ok {
			t.Errorf("%s/%s%s: there is no such file", folder, name, ending)
		}
	}
}

// Unused fails for a file of testdata whose name fits none of these patterns (filepath.Match), which are those that the
// package's tables go through, and for a pattern without a file. What fuzzing found is left out.
func Unused(t testing.TB, patterns ...string) {
	t.Helper()
	fits := make([]bool, len(patterns))
	err := fs.WalkDir(os.DirFS("testdata"), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(path, "fuzz/") {
			return err
		}
		used := false
		for i, pattern := range patterns {
			ok, err := filepath.Match(pattern, path)
			if err != nil {
				return err
			}
			used, fits[i] = used || ok, fits[i] || ok
		}
		if !used {
			t.Errorf("testdata/%s is used by no test", path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for i, pattern := range patterns {
		if !fits[i] {
			t.Errorf("testdata/%s: there is no such file", pattern)
		}
	}
}
