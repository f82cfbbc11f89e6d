package fetch

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Leaks(m) }

var (
	images = []string{"image/"}
	png    = []byte("\x89PNG\r\n\x1a\n and the rest of it")
)

const plenty = 1 << 20

// names is a DNS server, for whatever name it is asked about. Each question of one kind gets the next of its answers, the
// last one again and again.
type names struct {
	v4, v6  []string
	asked   [2]atomic.Int64
	resolve *net.Resolver
}

func serveNames(t *testing.T, v4, v6 []string) *names {
	t.Helper()
	n := &names{v4: v4, v6: v6}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		packet := make([]byte, 1500)
		for {
			size, from, err := conn.ReadFrom(packet)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(n.answer(packet[:size]), from)
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	n.resolve = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	return n
}

// answer is the answer to a question, a packet of DNS each (RFC 1035, 4).
func (n *names) answer(question []byte) []byte {
	end := 12
	for question[end] != 0 {
		end += int(question[end]) + 1
	}
	end += 5
	kind := binary.BigEndian.Uint16(question[end-4:])
	list, asked := n.v4, &n.asked[0]
	if kind == 28 {
		list, asked = n.v6, &n.asked[1]
	}
	reply := append([]byte{}, question[:end]...)
	copy(reply[2:], []byte{0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0})
	if kind != 1 && kind != 28 || len(list) == 0 {
		return reply
	}
	at := min(int(asked.Add(1))-1, len(list)-1)
	for _, text := range strings.Fields(list[at]) {
		ip := netip.MustParseAddr(text).AsSlice()
		reply[7]++
		reply = append(reply, 0xc0, 12)
		reply = binary.BigEndian.AppendUint16(reply, kind)
		reply = append(reply, 0, 1, 0, 0, 0, 0)
		reply = binary.BigEndian.AppendUint16(reply, uint16(len(ip)))
		reply = append(reply, ip...)
	}
	return reply
}

// host is a host that serves by TLS on loopback, for the name example.com and below, and what of it was seen.
type served struct {
	*httptest.Server
	addr  netip.AddrPort
	conns atomic.Int64
	last  atomic.Pointer[http.Request]
}

func serve(t *testing.T, handler http.HandlerFunc) *served {
	t.Helper()
	s := &served{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.last.Store(r)
		handler(w, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.conns.Add(1)
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	s.addr = netip.MustParseAddrPort(s.Listener.Addr().String())
	return s
}

// at is an address of the host, by its public name.
func (s *served) at(path string) string {
	return fmt.Sprintf("https://images.example.com:%d%s", s.addr.Port(), path)
}

// fetcherFor gets from these hosts, all of which the DNS says are on loopback, as from public ones, and from others as the
// product does.
func fetcherFor(t *testing.T, o Options, hosts ...*served) *Fetcher {
	t.Helper()
	o.RootCAs = x509.NewCertPool()
	for _, h := range hosts {
		o.RootCAs.AddCert(h.Certificate())
	}
	f := New(o)
	f.dialer.Resolver = serveNames(t, []string{"127.0.0.1"}, nil).resolve
	f.transport.DialContext = f.dialer.DialContext
	f.may = func(to netip.AddrPort) bool {
		for _, h := range hosts {
			if to == h.addr {
				return true
			}
		}
		return public(to)
	}
	return f
}

func send(media string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", media)
		_, _ = w.Write(body)
	}
}

func wantCode(t *testing.T, about string, err error, kind fault.Kind, code string) {
	t.Helper()
	if f := fault.From(err); f == nil || f.Kind != kind || f.Code != code {
		t.Errorf("%s: got %v, want %s", about, err, code)
	}
}

func TestGet(t *testing.T) {
	h := serve(t, send("image/png; charset=utf-8", png))
	f := fetcherFor(t, Options{}, h)
	file, err := f.Get(t.Context(), h.at("/a%20b.png?size=2#top"), images, NewBudget(plenty))
	if err != nil || file.Type != "image/png" || !bytes.Equal(file.Data, png) {
		t.Fatalf("got %s with %d bytes, %v", file.Type, len(file.Data), err)
	}
	r := h.last.Load()
	if r.Method != "GET" || r.RequestURI != "/a%20b.png?size=2" || r.ProtoMajor != 1 {
		t.Errorf("asked with %s %s %s", r.Method, r.RequestURI, r.Proto)
	}
	for name, want := range map[string]string{"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "threadhub"} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if len(r.Header) > 4 { // and Connection, if it is counted
		t.Errorf("sent %v", r.Header)
	}
}

// Every way we know of to write an address that is not public, and what only looks like another one. None may lead to a
// connection: neither here, where a listener counts them, nor elsewhere, which the check of addresses tells.
func TestNothingPrivateIsReached(t *testing.T) {
	h := serve(t, send("image/png", png))
	f := fetcherFor(t, Options{Timeout: 2 * time.Second}, h)
	var reached []netip.AddrPort
	var mu sync.Mutex
	f.may = func(to netip.AddrPort) bool { // the port is not what is looked at here
		ok := publicAddr(to.Addr())
		if ok {
			mu.Lock()
			reached = append(reached, to)
			mu.Unlock()
		}
		return false
	}
	hosts := strings.Fields(privateHosts)
	if len(hosts) < 150 {
		t.Fatalf("only %d hosts", len(hosts))
	}
	for _, host := range hosts {
		address := fmt.Sprintf("https://%s:%d/", host, h.addr.Port())
		if _, err := f.Get(t.Context(), address, images, NewBudget(plenty)); err == nil {
			t.Errorf("%s was fetched", address)
		} else if f := fault.From(err); f.Kind != fault.Invalid || f.Code != "invalid_url" && f.Code != "download_failed" {
			t.Errorf("%s: %v", address, err)
		}
	}
	if n := h.conns.Load(); n != 0 {
		t.Errorf("%d connections were made to loopback", n)
	}
	if len(reached) > 0 {
		t.Errorf("connections would have been made to %v", reached)
	}
}

// privateHosts are hosts as they may stand in an address. Names mean loopback here, whatever they are.
const privateHosts = `
	127.0.0.1 127.0.0.2 127.1.2.3 127.255.255.254 127.255.255.255 0.0.0.0 0.0.0.1 0.1.2.3 0.255.255.255
	10.0.0.0 10.0.0.1 10.1.2.3 10.255.255.255 172.16.0.1 172.20.10.1 172.31.255.255 192.168.0.1 192.168.1.254 192.168.255.255
	169.254.0.1 169.254.169.254 169.254.170.2 169.254.169.123 169.254.255.255 100.64.0.1 100.100.100.200 100.127.255.255
	192.0.0.1 192.0.0.8 192.0.0.170 192.0.0.192 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.9
	168.63.129.16 224.0.0.1 224.0.0.251 239.255.255.250 240.0.0.1 250.1.2.3 255.255.255.254 255.255.255.255
	2130706433 2130706434 0x7f000001 0x7F.0x0.0x0.0x1 0x7f.1 0x7f.0.0.1 017700000001 0177.0.0.1 0177.0.0.01 0177.1 00000177.0.0.1
	127.1 127.0.1 127.0.0.1. 0 0x0 00 127.000.000.001 127.0.0.0x1 127.0.0.1.0 0x7f000001. 2852039166 0xa9fea9fe 0251.0376.0251.0376
	0xa9.0xfe.0xa9.0xfe 169.254.43518 169.16689662 0251.254.0xa9fe 4294967295 4294967296 18446744071562067969 3232235521 167772161
	0xc0a80001 0300.0250.0.1 0x0a000001 012.0.0.1 ①②⑦.⓪.⓪.① １２７.０.０.１ 127。0。0。1 127．0．0．1 127｡0｡0｡1
	[::] [::1] [0:0:0:0:0:0:0:1] [0000:0000:0000:0000:0000:0000:0000:0001] [::0001] [::127.0.0.1] [::7f00:1] [::ffff:0:127.0.0.1]
	[::ffff:127.0.0.1] [::ffff:7f00:1] [::FFFF:127.0.0.1] [0:0:0:0:0:ffff:127.0.0.1] [0:0:0:0:0:FFFF:7F00:0001] [::ffff:10.0.0.1]
	[::ffff:169.254.169.254] [::ffff:a9fe:a9fe] [::ffff:192.168.1.1] [::ffff:100.100.100.200] [::ffff:0.0.0.0] [::ffff:255.255.255.255]
	[64:ff9b::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b::169.254.169.254] [64:ff9b::10.0.0.1] [64:ff9b:1::127.0.0.1] [64:ff9b:1::a9fe:a9fe]
	[2002:7f00:1::] [2002:7f00:0001::1] [2002:a9fe:a9fe::] [2002:0a00:0001::1] [2002:c0a8:0101::1]
	[2001::1] [2001:0:4136:e378:8000:63bf:3fff:fdd2] [2001:10::1] [2001:20::1] [2001:2::1] [2001:db8::1] [3fff::1] [3fff:fff::1]
	[fc00::1] [fd00::1] [fd00:ec2::254] [fd20:ce::254] [fdff:ffff::1] [fe80::1] [fe80::1%25lo] [fe80::1%25eth0] [fe80::a9fe:a9fe]
	[febf::1] [fec0::1] [feff::1] [ff02::1] [ff05::2] [ff0e::1] [100::1] [5f00::1] [4000::1] [8000::1] [e000::1] [1::1] [::2] [::fffe:7f00:1]
	[::1%25lo] [::ffff:127.0.0.1%25lo] [2606:4700::1%25eth0]
	localhost LOCALHOST localhost. localhost.localdomain localhost6 ip6-localhost ip6-loopback loopback broadcasthost
	metadata metadata.google.internal metadata.google.internal. metadata.goog instance-data instance-data.ec2.internal
	169.254.169.254.nip.io 127.0.0.1.nip.io 127-0-0-1.example.com localtest.me lvh.me kubernetes.default.svc
	kubernetes.default.svc.cluster.local redis postgres threadhub host.docker.internal gateway.docker.internal router.local
	example.com example.com. EXAMPLE.com xn--e1afmkfd.example пример.example ⓔⓧⓐⓜⓟⓛⓔ.com
	user@127.0.0.1 user:password@127.0.0.1 example.com@127.0.0.1 127.0.0.1%00.example.com 127.0.0.1%2f.example.com example.com%2f@127.0.0.1
	127.0.0.1\@example.com example.com\@127.0.0.1 127.0.0.1\.example.com
`

// What is public is reached, if it is asked at the usual port.
func TestPublic(t *testing.T) {
	for _, a := range strings.Fields(`1.1.1.1 8.8.8.8 93.184.216.34 172.15.255.255 172.32.0.1 192.167.255.255 100.63.255.255 100.128.0.1 11.0.0.1 9.255.255.255
		169.253.255.255 169.255.0.1 126.255.255.255 128.0.0.1 223.255.255.255 198.17.255.255 198.20.0.0 192.0.1.1 203.0.114.1
		2606:4700:4700::1111 2001:4860:4860::8888 2a00:1450:4001:81b::200e 2003::1 2400::1 ::ffff:8.8.8.8`) {
		to := netip.MustParseAddr(a)
		if !public(netip.AddrPortFrom(to, 443)) {
			t.Errorf("%s is not public", a)
		}
		for _, port := range []uint16{0, 22, 25, 80, 444, 6379, 8443} {
			if public(netip.AddrPortFrom(to, port)) {
				t.Errorf("%s is asked at port %d", a, port)
			}
		}
	}
}

// A name that is public when it is looked at and private when it is connected to, or both at once, leads nowhere private.
func TestNamesThatChange(t *testing.T) {
	h := serve(t, send("image/png", png))
	for name, answers := range map[string][2][]string{
		"first public":          {{"192.0.2.1", "127.0.0.1"}, nil},
		"one after the other":   {{"127.0.0.1"}, {"2001:db8::1", "::1"}},
		"both at once":          {{"127.0.0.1 127.0.0.2 127.0.0.3"}, nil},
		"private in both kinds": {{"127.0.0.1"}, {"::1 ::ffff:127.0.0.1"}},
	} {
		n := serveNames(t, answers[0], answers[1])
		f := fetcherFor(t, Options{Timeout: 2 * time.Second}, h)
		f.dialer.Resolver = n.resolve
		f.transport.DialContext = f.dialer.DialContext
		var tried []string
		var mu sync.Mutex
		f.may = func(to netip.AddrPort) bool {
			mu.Lock()
			defer mu.Unlock()
			tried = append(tried, to.Addr().String())
			return publicAddr(to.Addr())
		}
		for range 4 {
			_, err := f.Get(t.Context(), h.at("/"), images, NewBudget(plenty))
			wantCode(t, name, err, fault.Invalid, "download_failed")
		}
		if h.conns.Load() != 0 {
			t.Fatalf("%s: loopback was connected to", name)
		}
		if !strings.Contains(strings.Join(tried, " "), "127.0.0.1") {
			t.Errorf("%s: the name never led to loopback, but to %v", name, tried)
		}
	}
}

// What stands where is not for strangers to find out: whatever it is that is private, the answer is the same.
func TestRefusalsAreAlike(t *testing.T) {
	h := serve(t, send("image/png", png))
	f := fetcherFor(t, Options{Timeout: 2 * time.Second})
	f.may = func(to netip.AddrPort) bool { return publicAddr(to.Addr()) }
	var first string
	for _, address := range []string{
		h.URL + "/", "https://127.0.0.1:1/", "https://10.0.0.1/", h.at("/"), "https://[::1]/", "https://vault.internal/", "https://169.254.169.254/latest/",
	} {
		_, err := f.Get(t.Context(), address, images, NewBudget(plenty))
		text := fault.From(err).Message
		if first == "" {
			first = text
		}
		if text != first {
			t.Errorf("%s: %q, and others %q", address, text, first)
		}
	}
}

func TestRedirects(t *testing.T) {
	inside := serve(t, send("image/png", png))
	var to atomic.Value
	h := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/image":
			send("image/png", png)(w, r)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		default:
			w.Header().Set("Set-Cookie", "session=1")
			w.Header().Set("Location", to.Load().(string))
			w.WriteHeader(http.StatusTemporaryRedirect)
		}
	})
	f := fetcherFor(t, Options{Timeout: 2 * time.Second}, h)
	get := func() error {
		file, err := f.Get(t.Context(), h.at("/start?secret=1"), images, NewBudget(plenty))
		if err == nil && !bytes.Equal(file.Data, png) {
			t.Errorf("to %s: got %d bytes", to.Load(), len(file.Data))
		}
		return err
	}
	port := inside.addr.Port()
	for _, location := range []string{
		inside.URL + "/", fmt.Sprintf("https://127.0.0.1:%d/", h.addr.Port()), "https://169.254.169.254/latest/meta-data/", fmt.Sprintf("https://[::ffff:127.0.0.1]:%d/", port),
		fmt.Sprintf("https://[::1]:%d/", port), fmt.Sprintf("https://0.0.0.0:%d/", port), fmt.Sprintf("https://2130706433:%d/", port), fmt.Sprintf("https://localhost:%d/", port),
		fmt.Sprintf("//127.0.0.1:%d/", port), "http://images.example.com/image", strings.Replace(h.at("/image"), "https", "http", 1), "ftp://images.example.com/image", "file:///etc/passwd", "data:image/png;base64,QQ==", "gopher://127.0.0.1/_x",
		strings.Replace(h.at("/image"), "images", "other", 1), "https://images.example.com/image", strings.Replace(h.at("/image"), "https://", "https://user@", 1), "https:///image", "%zz", "",
	} {
		to.Store(location)
		err := get()
		wantCode(t, "redirected to "+location, err, fault.Invalid, "download_failed")
	}
	if inside.conns.Load() != 0 {
		t.Error("what is not public was connected to")
	}
	for _, location := range []string{"/image", "image?x=1", h.at("/image"), strings.ToUpper(h.at("")[:13]) + h.at("/image")[13:]} {
		to.Store(location)
		if err := get(); err != nil {
			t.Errorf("to %s: %v", location, err)
		}
		if r := h.last.Load(); len(r.Cookies()) > 0 || r.Referer() != "" {
			t.Errorf("to %s: sent %v", location, r.Header)
		}
	}
	before := h.conns.Load()
	to.Store("/loop")
	wantCode(t, "a loop", get(), fault.Invalid, "download_failed")
	if n := h.conns.Load() - before; n != maxRedirects+1 {
		t.Errorf("a loop was followed %d times", n)
	}
}

func TestTypes(t *testing.T) {
	files := []string{"application/pdf", "text/"}
	for _, c := range []struct {
		about    string
		types    []string
		declared string
		body     string
		want     string // "": refused
	}{
		{"as declared", images, "image/png", string(png), "image/png"},
		{"another image", images, "image/png", "\xff\xd8\xff\xe0 jpeg", "image/jpeg"},
		{"nothing declared", images, "", string(png), "image/png"},
		{"bytes declared", images, "binary/octet-stream", "RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"},
		{"heic", images, "image/heic", "\x00\x00\x00\x18ftypheic", "image/heic"},
		{"a page as an image", images, "image/png", "<!doctype html><h1>Sign in</h1>", ""},
		{"an image as a page", images, "text/html", string(png), ""},
		{"secrets as an image", images, "image/png", `{"AccessKeyId":"x"}`, ""},
		{"svg", images, "image/svg+xml", `<svg xmlns="http://www.w3.org/2000/svg"/>`, ""},
		{"a script in an image's clothes", images, "image/gif", "GIF8<script>", ""},
		{"an archive", images, "image/png", "PK\x03\x04", ""},
		{"nothing", images, "image/png", "", ""},
		{"a short file", images, "image/png", "\x89PN", ""},
		{"RIFF that is no image", images, "image/webp", "RIFF\x00\x00\x00\x00WAVEfmt ", ""},
		{"an image that has no RIFF", images, "image/webp", "12345678WEBPVP8 ", ""},
		{"a PDF", files, "application/pdf", "%PDF-1.7", "application/pdf"},
		{"a PDF that is none", files, "application/pdf", "\x00\x01\x02", ""},
		{"text", files, "text/csv; charset=utf-8", "a,b\n", "text/csv"},
		{"text that is none", files, "text/plain", "a\x00b", ""},
		{"an image as a file", files, "application/pdf", string(png), ""},
		{"JSON", files, "application/json", "{}", ""},
	} {
		h := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = nil
			if c.declared != "" {
				w.Header().Set("Content-Type", c.declared)
			}
			_, _ = io.WriteString(w, c.body)
		})
		file, err := fetcherFor(t, Options{}, h).Get(t.Context(), h.at("/"), c.types, NewBudget(plenty))
		switch {
		case c.want == "":
			wantCode(t, c.about, err, fault.Invalid, "unsupported_media_type")
		case err != nil || file.Type != c.want || string(file.Data) != c.body:
			t.Errorf("%s: %q, %v", c.about, file.Type, err)
		}
	}
}

// A body without an end, a compressed one, and one whose header promises less than comes.
func TestSizes(t *testing.T) {
	sent := make(chan int, 8)
	endless := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "image/png")
		n, _ := w.Write(png)
		block := make([]byte, 64<<10)
		for range 16 << 10 { // a GiB
			more, err := w.Write(block)
			if n += more; err != nil {
				break
			}
		}
		sent <- n
	})
	f := fetcherFor(t, Options{Timeout: time.Minute}, endless)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := f.Get(t.Context(), endless.at("/"), images, NewBudget(plenty))
	runtime.ReadMemStats(&after)
	wantCode(t, "without an end", err, fault.TooLarge, "request_too_large")
	if n := <-sent; n > 16<<20 {
		t.Errorf("%d bytes were taken", n)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 16*plenty {
		t.Errorf("it took %d bytes of memory", grown)
	}

	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(png)
	_, _ = z.Write(make([]byte, 10<<20))
	_ = z.Close()
	for _, encoding := range []string{"gzip", "GZIP", "br", "zstd", "identity, gzip", "deflate"} {
		h := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", encoding)
			send("image/png", bomb.Bytes())(w, r)
		})
		_, err := fetcherFor(t, Options{}, h).Get(t.Context(), h.at("/"), images, NewBudget(plenty))
		wantCode(t, encoding, err, fault.Invalid, "download_failed")
	}

	// Two files share what there is.
	h := serve(t, send("image/png", append(png[:len(png):len(png)], make([]byte, 600<<10)...)))
	f, budget := fetcherFor(t, Options{}, h), NewBudget(plenty)
	if _, err := f.Get(t.Context(), h.at("/1"), images, budget); err != nil {
		t.Fatal(err)
	}
	_, err = f.Get(t.Context(), h.at("/2"), images, budget)
	wantCode(t, "the second file", err, fault.TooLarge, "request_too_large")

	short := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		send("image/png", png)(w, r)
	})
	_, err = fetcherFor(t, Options{}, short).Get(t.Context(), short.at("/"), images, NewBudget(plenty))
	wantCode(t, "less than was promised", err, fault.Invalid, "download_failed")
}

// A host that says nothing, or a byte now and then, has its time and no more; a caller that leaves ends it at once.
func TestTime(t *testing.T) {
	gone := make(chan bool, 8)
	h := serve(t, func(w http.ResponseWriter, r *http.Request) {
		defer func() { gone <- true }()
		if r.URL.Path == "/slow" {
			w.Header().Set("Content-Type", "image/png")
			_, _ = w.Write(png)
		}
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if r.URL.Path == "/slow" {
					_, _ = w.Write([]byte("."))
					_ = http.NewResponseController(w).Flush()
				}
			case <-r.Context().Done():
				return
			}
		}
	})
	for _, path := range []string{"/silent", "/slow"} {
		begin := time.Now()
		_, err := fetcherFor(t, Options{Timeout: 300 * time.Millisecond}, h).Get(t.Context(), h.at(path), images, NewBudget(plenty))
		wantCode(t, path, err, fault.Invalid, "download_failed")
		if took := time.Since(begin); took < 300*time.Millisecond || took > 10*time.Second {
			t.Errorf("%s took %v", path, took)
		}
		<-gone

		left := errors.New("the client has left")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(100*time.Millisecond, func() { cancel(left) })
		if _, err := fetcherFor(t, Options{Timeout: time.Minute}, h).Get(ctx, h.at(path), images, NewBudget(plenty)); !errors.Is(err, left) {
			t.Errorf("%s: left with %v", path, err)
		}
		<-gone
	}
}

func TestHostsThatFail(t *testing.T) {
	for _, status := range []int{201, 204, 206, 300, 304, 401, 403, 404, 410, 429, 500, 503} {
		h := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "image/png")
			w.WriteHeader(status)
			if status >= 400 {
				_, _ = w.Write(png)
			}
		})
		_, err := fetcherFor(t, Options{}, h).Get(t.Context(), h.at("/"), images, NewBudget(plenty))
		wantCode(t, fmt.Sprint(status), err, fault.Invalid, "download_failed")
		if text := fault.From(err).Message; !strings.Contains(text, fmt.Sprint(status)) {
			t.Errorf("%d: told %q", status, text)
		}
	}
	h := serve(t, send("image/png", png))
	unknown := fetcherFor(t, Options{}, h)
	unknown.transport.TLSClientConfig.RootCAs = x509.NewCertPool()
	_, err := unknown.Get(t.Context(), h.at("/"), images, NewBudget(plenty))
	wantCode(t, "a certificate of nobody's", err, fault.Invalid, "download_failed")
	_, err = fetcherFor(t, Options{}, h).Get(t.Context(), strings.Replace(h.at("/"), "images.example.com", "example.org", 1), images, NewBudget(plenty))
	wantCode(t, "a certificate of another host", err, fault.Invalid, "download_failed")
	large := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X", strings.Repeat("x", 1<<20))
		send("image/png", png)(w, r)
	})
	_, err = fetcherFor(t, Options{}, large).Get(t.Context(), large.at("/"), images, NewBudget(plenty))
	wantCode(t, "a header without an end", err, fault.Invalid, "download_failed")
}

func TestAddressesThatAreNone(t *testing.T) {
	f := New(Options{})
	for _, address := range []string{
		"", "x", "/a.png", "//example.com/a.png", "http://example.com/a.png", "HTTP://example.com/", "ftp://example.com/", "file:///etc/passwd", "data:image/png;base64,QQ==",
		"https://", "https:///a.png", "https://:443/", "https://user@example.com/", "https://user:pass@example.com/", "https://@example.com/", "https://exa mple.com/", "https://example.com:x/",
		"https://example.com/\x00", "https://example.com/" + strings.Repeat("a", 9000), "https://[::1", "javascript:alert(1)", "https:example.com",
	} {
		_, err := f.Get(t.Context(), address, images, NewBudget(plenty))
		wantCode(t, address, err, fault.Invalid, "invalid_url")
	}
}

// No proxy of the environment is asked: it would look names up for itself.
func TestNoProxy(t *testing.T) {
	proxy := serve(t, send("image/png", png))
	t.Setenv("HTTPS_PROXY", proxy.URL)
	t.Setenv("https_proxy", proxy.URL)
	f := New(Options{Timeout: time.Second})
	f.dialer.Resolver = serveNames(t, []string{"127.0.0.1"}, nil).resolve
	f.transport.DialContext = f.dialer.DialContext
	f.may = func(to netip.AddrPort) bool { return to == proxy.addr }
	_, _ = f.Get(t.Context(), "https://images.example.com/", images, NewBudget(plenty))
	if proxy.conns.Load() != 0 || f.transport.Proxy != nil {
		t.Error("a proxy was asked")
	}
}

// Whatever number an address is, what is taken for public is nothing that the standard library knows to be one's own, and
// it is the same for an address of IPv4 in the clothes of IPv6.
func FuzzPublic(f *testing.F) {
	for _, a := range []string{"127.0.0.1", "8.8.8.8", "::1", "::ffff:10.0.0.1", "2606:4700::1", "fe80::1"} {
		f.Add(netip.MustParseAddr(a).AsSlice())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		ip := net.IP(b)
		own := ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast() || ip.IsMulticast() || ip.IsUnspecified()
		if publicAddr(a) && own {
			t.Errorf("%s is taken for public", a)
		}
		if a.Is4() && publicAddr(a) != publicAddr(netip.AddrFrom16(a.As16())) {
			t.Errorf("%s is public in one form only", a)
		}
	})
}
