package rig

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// Replay is the providers played from records: what a request gets is named in its text, as [[play name]], and comes byte
// for byte, whoever asks. A request without a body gets the record that is named as its path, "openai/models". A house that was given Env asks it instead of a provider.
type Replay struct {
	server *httptest.Server
	mu     sync.Mutex
	record map[string]Record
}

// Record is an answer.
type Record struct {
	Status int
	Header http.Header
	Body   string
	Cut    bool // the connection breaks after Body
}

var played = regexp.MustCompile(`\[\[play ([^\]"\\]+)\]\]`)

// Play is the text that asks for a record.
func Play(name string) string { return "[[play " + name + "]]" }

// NewReplay starts the providers. They end with the test.
func NewReplay(t testing.TB) *Replay {
	t.Helper()
	r := &Replay{record: map[string]Record{}}
	r.server = httptest.NewServer(r)
	t.Cleanup(r.server.Close)
	return r
}

// Put keeps a record by a name.
func (r *Replay) Put(name string, record Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.record[name] = record
}

// URL is the base of a provider; all of them have the same records.
func (r *Replay) URL(provider string) string { return r.server.URL + "/" + provider }

// Env are the settings of a house that asks the records.
func (r *Replay) Env() (env []string) {
	for _, p := range Providers {
		env = append(env, "THREADHUB_UPSTREAMS__"+strings.ToUpper(p)+"__BASE_URL="+r.URL(p))
	}
	return env
}

// ServeHTTP is http.Handler's.
func (r *Replay) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	name := strings.TrimPrefix(request.URL.Path, "/")
	if names := played.FindAllSubmatch(body, -1); len(names) > 0 {
		name = string(names[len(names)-1][1])
	}
	r.mu.Lock()
	record, ok := r.record[name]
	r.mu.Unlock()
	if !ok {
		http.Error(w, fmt.Sprintf("there is no record %s", name), http.StatusTeapot)
		return
	}
	for name, values := range record.Header {
		if name != "Content-Length" {
			w.Header()[name] = values
		}
	}
	w.WriteHeader(record.Status)
	_, _ = io.WriteString(w, record.Body)
	if record.Cut {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// Recorded reads what is recorded of a provider in upstreams/<provider>/testdata/<folder>: whole answers (*.resp.json),
// streams (*.sse) and refusals (*.http), by "provider/folder/file".
func Recorded(t testing.TB, provider, folder string) map[string]Record {
	t.Helper()
	dir := filepath.Join(Root(t), "upstreams", provider, "testdata", folder)
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]Record{}
	for _, f := range files {
		raw, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		name := provider + "/" + folder + "/" + f.Name()
		switch {
		case strings.HasSuffix(name, ".resp.json"):
			all[name] = Whole(string(raw))
		case strings.HasSuffix(name, ".sse"):
			all[name] = Streamed(string(raw))
		case strings.HasSuffix(name, ".http"):
			all[name] = refusal(t, name, raw)
		}
	}
	if len(all) == 0 {
		t.Fatalf("%s holds no records", dir)
	}
	return all
}

// Whole is a good answer in one piece.
func Whole(body string) Record {
	return Record{Status: 200, Header: head("application/json"), Body: body}
}

// Streamed is a good answer as a stream.
func Streamed(body string) Record {
	return Record{Status: 200, Header: head("text/event-stream; charset=utf-8"), Body: body}
}

// head is what OpenAI puts before an answer.
func head(media string) http.Header {
	return http.Header{
		"Content-Type": {media}, "X-Request-Id": {"req_recorded"}, "Openai-Processing-Ms": {"17"}, "Openai-Version": {"2020-10-01"},
		"X-Ratelimit-Limit-Requests": {"500"}, "X-Ratelimit-Remaining-Requests": {"499"}, "X-Ratelimit-Reset-Requests": {"120ms"},
	}
}

func refusal(t testing.TB, name string, raw []byte) Record {
	t.Helper()
	r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), nil)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	defer func() { _ = r.Body.Close() }()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return Record{Status: r.StatusCode, Header: r.Header, Body: string(body)}
}
