package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/internal/fetch"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/metering"
)

// web is what there is on the internet: the files at these paths of files.example, and others that are not there.
type web struct {
	files map[string]string
	hold  chan struct{} // if it is not nil, every answer waits for it

	mu    sync.Mutex
	asked []string
	now   atomic.Int64 // under way
	most  atomic.Int64
	gone  chan error // why an answer was not waited for
}

func (w *web) Get(ctx context.Context, address string, types []string, _ *fetch.Budget) (fetch.File, error) {
	w.mu.Lock()
	w.asked = append(w.asked, address)
	w.mu.Unlock()
	if n := w.now.Add(1); n > w.most.Load() {
		w.most.Store(n)
	}
	defer w.now.Add(-1)
	if w.hold != nil {
		select {
		case <-w.hold:
		case <-ctx.Done():
			if w.gone != nil {
				w.gone <- context.Cause(ctx)
			}
			return fetch.File{}, context.Cause(ctx)
		}
	}
	data, ok := w.files[strings.TrimPrefix(address, "https://files.example")]
	if !ok {
		return fetch.File{}, fault.New(fault.Invalid, "the file is not there").WithCode("download_failed")
	}
	return fetch.File{Type: strings.TrimSuffix(types[0], "/") + "/x-test", Data: []byte(data)}, nil
}

func (w *web) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.asked)
}

func fetchHouse(t *testing.T, w Fetcher) *house {
	h := newHouse(t, stores["sqlite"](t), Options{Fetcher: w})
	for _, p := range []string{"gemini", "perplexity"} {
		h.do("PUT", h.providers(p), `{"api_key":"sk-test-key-0123456789"}`).want(t, 200)
	}
	return h
}

// look asks gemini about images.
func (h *house) look(addresses []string, header ...string) heard {
	return h.lookAt("gemini/gemini-3.8-flash", addresses, header...)
}

func (h *house) lookAt(model string, addresses []string, header ...string) heard {
	h.t.Helper()
	parts := []string{`{"type":"text","text":"What is this?"}`}
	for _, a := range addresses {
		parts = append(parts, fmt.Sprintf(`{"type":"image_url","image_url":{"url":%q}}`, a))
	}
	return h.do("POST", "/v1/chat/completions", fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":[%s]}]}`, model, strings.Join(parts, ",")), header...)
}

func (h *house) lastBody() gjson.Result {
	log := h.attempts()
	return gjson.ParseBytes(log[len(log)-1].Body)
}

const there = "https://files.example/a.png"

// The provider is given the image, and the thread keeps its address.
func TestFilesAreFetched(t *testing.T) {
	w := &web{files: map[string]string{"/a.png": "pixels", "/b.pdf": "pages", "/c.mp4": "film"}}
	h := fetchHouse(t, w)
	r := h.look([]string{there, there}, "X-Thread-Id", "seen").want(t, 200)
	if got := h.lastBody().Get("contents.0.parts").Raw; got != `[{"text":"What is this?"},{"inlineData":{"mimeType":"image/x-test","data":"cGl4ZWxz"}},{"inlineData":{"mimeType":"image/x-test","data":"cGl4ZWxz"}}]` {
		t.Errorf("the provider was given %s", got)
	}
	if got := r.header.Get("X-Threadhub-Warning"); got != "" {
		t.Errorf("warned of %s", got)
	}
	if n := w.count(); n != 1 {
		t.Errorf("one file was fetched %d times", n)
	}
	stored := string(h.do("GET", "/api/threads/seen", "").want(t, 200).body)
	if !strings.Contains(stored, there) || strings.Contains(stored, "cGl4ZWxz") {
		t.Errorf("the thread has %s", stored)
	}
	h.do("POST", "/v1/chat/completions", `{"model":"gemini/gemini-3.8-flash","messages":[{"role":"user","content":[{"type":"file","file":{"file_data":"https://files.example/b.pdf"}},`+
		`{"type":"video_url","video_url":{"url":"https://files.example/c.mp4"}}]}]}`).want(t, 200)
	if got := h.lastBody().Get("contents.0.parts.#.inlineData.data").Raw; got != `["cGFnZXM=","ZmlsbQ=="]` {
		t.Errorf("the provider was given %s", h.lastBody().Raw)
	}
}

// What Gemini gets by itself, and what other providers do, is left to them.
func TestFilesThatAreNotFetched(t *testing.T) {
	w := &web{files: map[string]string{"/a.png": "pixels"}}
	h := fetchHouse(t, w)
	for _, a := range []string{"https://generativelanguage.googleapis.com/v1beta/files/x", "https://www.youtube.com/watch?v=1", "https://youtu.be/1"} {
		h.look([]string{a}).want(t, 200)
		if got := h.lastBody().Get("contents.0.parts.1.fileData.fileUri").Str; got != a {
			t.Errorf("%s became %s", a, h.lastBody().Raw)
		}
	}
	for _, model := range []string{"openai/gpt-4.1-mini", "openrouter/google/gemini-3.8-flash", "perplexity/openai/gpt-6-luna"} {
		h.lookAt(model, []string{there}).want(t, 200)
		if !strings.Contains(h.lastBody().Raw, there) {
			t.Errorf("%s was given %s", model, h.lastBody().Raw)
		}
	}
	if n := w.count(); n != 0 {
		t.Errorf("%d files were fetched: %v", n, w.asked)
	}

	off := fetchHouse(t, nil)
	r := off.look([]string{there}).want(t, 200)
	if got := off.lastBody().Get("contents.0.parts.1.fileData.fileUri").Str; got != there || r.header.Get("X-Threadhub-Warning") != "unchecked=image_url;reason=not_fetched" {
		t.Errorf("with fetching off: %s, warned of %q", off.lastBody().Raw, r.header.Get("X-Threadhub-Warning"))
	}
}

// A file that cannot be had is the client's to mend: nobody is asked, nothing is stored, nothing is charged.
func TestAFileThatIsNotThere(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{Fetcher: &web{}}, func(t *testing.T, h *house) {
		h.do("PUT", h.providers("gemini"), `{"api_key":"sk-test-key-0123456789"}`).want(t, 200)
		r := h.look([]string{"data:image/png;base64,QQ==", there}, "X-Thread-Id", "none").want(t, 400)
		if e := gjson.GetBytes(r.body, "error"); e.Get("param").Str != "messages[0].content[2].image_url.url" || e.Get("code").Str != "download_failed" ||
			e.Get("type").Str != "invalid_request_error" {
			t.Errorf("refused with %s", r.body)
		}
		if n := len(h.attempts()); n != 0 {
			t.Errorf("the provider was asked %d times", n)
		}
		h.do("GET", "/api/threads/none", "").want(t, 404)
		h.do("GET", "/v1/requests/"+r.header.Get("X-Request-Id"), "").want(t, 404)
		if lines, err := metering.Lines(t.Context(), h.store, h.admin.Org, "any"); err != nil || len(lines) != 0 {
			t.Errorf("%d lines, %v", len(lines), err)
		}
	})
}

// What was said before goes on without files that are there no longer.
func TestAFileThatIsGone(t *testing.T) {
	w := &web{files: map[string]string{"/a.png": "pixels"}}
	h := fetchHouse(t, w)
	h.look([]string{there}, "X-Thread-Id", "old").want(t, 200)
	w.files = nil
	body := `{"model":"gemini/gemini-3.8-flash","messages":[{"role":"user","content":"And now?"}]}`
	r := h.do("POST", "/v1/chat/completions", body, "X-Thread-Id", "old").want(t, 200)
	if got := r.header.Get("X-Threadhub-Warning"); got != "dropped=messages.content.image_url;reason=not_fetched" {
		t.Errorf("warned of %q", got)
	}
	if got := h.lastBody().Get("contents.0.parts").Raw; got != `[{"text":"What is this?"}]` {
		t.Errorf("the provider was given %s", h.lastBody().Raw)
	}
}

// Files are few, and few are fetched at once; those of what is asked now come first.
func TestFilesAreFew(t *testing.T) {
	w := &web{files: map[string]string{}, hold: make(chan struct{})}
	var many []string
	for i := range maxFiles + 1 {
		path := fmt.Sprint("/", i)
		w.files[path] = "x"
		many = append(many, "https://files.example"+path)
	}
	h := fetchHouse(t, w)
	r := h.look(many).want(t, 400)
	if r.code() != "too_many_files" || w.count() != 0 {
		t.Errorf("%s after %d files", r.body, w.count())
	}
	go func() {
		testkit.Eventually(t, 10*time.Second, func() bool { return w.now.Load() >= filesAtOnce })
		for range maxFiles {
			w.hold <- struct{}{}
		}
	}()
	h.look(many[:maxFiles], "X-Thread-Id", "many").want(t, 200)
	if n := w.most.Load(); n != filesAtOnce {
		t.Errorf("%d files were fetched at once, want %d", n, filesAtOnce)
	}
	close(w.hold)
	w.asked = nil
	h.look(many[maxFiles:], "X-Thread-Id", "many").want(t, 200)
	if n := w.count(); n != maxFiles || w.asked[0] != many[maxFiles] || slices.Contains(w.asked, many[0]) {
		t.Errorf("first of %d files came %v", n, w.asked)
	}
}

// A client that leaves ends what is fetched for it.
func TestFetchingEndsWithTheClient(t *testing.T) {
	w := &web{hold: make(chan struct{}), gone: make(chan error, 1)}
	h := fetchHouse(t, w)
	ctx, leave := context.WithCancel(t.Context())
	body := fmt.Sprintf(`{"model":"gemini/gemini-3.8-flash","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":%q}}]}]}`, there)
	req, err := http.NewRequestWithContext(ctx, "POST", h.url+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+h.admin.APIKey.Reveal())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := houseClient.Do(req); err == nil {
			_ = resp.Body.Close()
		}
	}()
	until(t, "the file to be asked for", func() bool { return w.count() == 1 })
	leave()
	<-done
	select {
	case err := <-w.gone:
		if !errors.Is(err, errClientGone) {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it is fetched on, for nobody")
	}
	if n := len(h.attempts()); n != 0 {
		t.Errorf("the provider was asked %d times", n)
	}
}

// One org's slow files do not keep another's waiting.
func TestOneOrgsFilesLeaveRoom(t *testing.T) {
	g := newGate()
	full, cancel := context.WithCancel(t.Context())
	cancel()
	for range fetchingOrg {
		if !g.enter(t.Context(), "org_a") {
			t.Fatal("no room for the first")
		}
	}
	if g.enter(full, "org_a") {
		t.Error("one org has more than its part")
	}
	if !g.enter(full, "org_b") {
		t.Error("another org finds no room")
	}
	entered := make(chan bool)
	go func() { entered <- g.enter(t.Context(), "org_a") }()
	g.leave("org_a")
	if !<-entered {
		t.Error("nobody follows who leaves")
	}
	for i := range fetchingAll {
		g.enter(full, id.Org(fmt.Sprint("org_c", i)))
	}
	if g.all != fetchingAll {
		t.Errorf("%d are in, want %d", g.all, fetchingAll)
	}
}

// The guard is in force in a gateway as it is run: an address on loopback is refused, and nobody connects to it.
func TestFilesOnLoopback(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	conns := make(chan net.Conn, 16)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns <- c
		}
	}()
	h := fetchHouse(t, fetch.New(fetch.Options{}))
	port := ln.Addr().(*net.TCPAddr).Port
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"} {
		h.look([]string{fmt.Sprintf("https://%s:%d/a.png", host, port)}).want(t, 400)
	}
	r := h.look([]string{"http://files.example/a.png"}).want(t, 400)
	if r.code() != "invalid_url" {
		t.Errorf("an address of http: %s", r.body)
	}
	select {
	case <-conns:
		t.Error("loopback was connected to")
	default:
	}
}

// Without a key at the provider no file is fetched for it.
func TestNoFilesWithoutAKey(t *testing.T) {
	w := &web{files: map[string]string{"/a.png": "pixels"}}
	h := newHouse(t, stores["sqlite"](t), Options{Fetcher: w})
	if r := h.look([]string{there}).want(t, 400); r.code() != "provider_key_missing" || w.count() != 0 {
		t.Errorf("%s after %d files", r.body, w.count())
	}
}
