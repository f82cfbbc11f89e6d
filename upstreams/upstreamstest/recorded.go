package upstreamstest

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"threadhub/internal/fault"
	"threadhub/upstreams"
)

// Fault is what a refusal must become.
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
	for name, raw := range recorded(t, folder, ".http") {
		expected, ok := want[name]
		if !ok {
			t.Errorf("%s: nothing is said of it", name)
			continue
		}
		for _, stream := range []bool{false, true} {
			_, err := s.open(t, Replies(t, raw)).Chat(t.Context(), ask(stream))
			expected.check(t, name, err)
			if f := upstreams.FailureOf(err); f.Status < 400 || !f.Sent || f.RetryAfter != fault.From(err).Retry && !fault.From(err).Final {
				t.Errorf("%s: the failure is %+v", name, f)
			}
		}
		delete(want, name)
	}
	for name := range want {
		t.Errorf("%s: there is no such file", name)
	}
}

// Streams plays every recorded stream in folder (*.sse, the bytes of the body) and checks how it ends, and that payloads
// in OpenAI's dialect come out as they went in. Those not in want must end well.
func (s Subject) Streams(t *testing.T, folder string, want map[string]Fault) {
	for name, raw := range recorded(t, folder, ".sse") {
		var payloads []string
		for line := range strings.Lines(raw) {
			if p, ok := strings.CutPrefix(strings.TrimRight(line, "\r\n"), "data: "); ok && p != "[DONE]" {
				payloads = append(payloads, p)
			}
		}
		expected, fails := want[name]
		if fails && expected.Code != "upstream_truncated" {
			payloads = payloads[:len(payloads)-1] // the error itself
		}
		got, err := listen(t, s.open(t, Replies(t, EventStream+raw)))
		if fails {
			expected.check(t, name, err)
		} else if !errors.Is(err, io.EOF) {
			t.Errorf("%s: ended in %v", name, err)
		}
		if s.Wire == nil && strings.Join(got, "\n") != strings.Join(payloads, "\n") {
			t.Errorf("%s: %d payloads went in, %d others came out", name, len(payloads), len(got))
		}
		delete(want, name)
	}
	for name := range want {
		t.Errorf("%s: there is no such file", name)
	}
}

// Answers plays every recorded whole answer in folder (*.resp.json) and checks that its bytes come out as they went in,
// but for those in want.
func (s Subject) Answers(t *testing.T, folder string, want map[string]Fault) {
	for name, raw := range recorded(t, folder, ".resp.json") {
		a, err := s.open(t, Replies(t, Reply("200 OK", raw, JSON))).Chat(t.Context(), ask(false))
		if expected, fails := want[name]; fails {
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
