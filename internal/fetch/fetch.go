// Package fetch gets what stands at an address that a stranger wrote, from public hosts and from nowhere else.
//
// It promises that no connection is made to an address that is not public, whatever the stranger's name for it, whatever
// the DNS says and however often it changes its mind: what is checked is the address that is connected to. It asks by
// https at its usual port, follows a few redirects within the same host, sends no credentials, cookies or referrer, takes
// no more than it is allowed, for no longer than its timeout, and believes no type that the bytes belie. It uses no
// proxy, as it could not see where that connects to. It leaves to others what becomes of the file.
package fetch

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"threadhub/internal/fault"
)

// Options of a Fetcher. The zero value works.
type Options struct {
	Timeout time.Duration  // for one file, its redirects included; 0: 15 s
	RootCAs *x509.CertPool // who may sign a host's certificate; nil: whom the system trusts
}

// Fetcher gets files. Safe for concurrent use.
type Fetcher struct {
	timeout   time.Duration
	transport *http.Transport
	dialer    net.Dialer
	may       func(netip.AddrPort) bool // connect to it
}

// File is what was found.
type File struct {
	Type string // its media type, by its bytes
	Data []byte
}

const (
	connectTimeout = 5 * time.Second
	maxHeader      = 32 << 10
	maxAddress     = 8 << 10
	maxRedirects   = 3
)

// New returns a Fetcher. It connects to nothing yet.
func New(o Options) *Fetcher {
	f := &Fetcher{timeout: cmp.Or(o.Timeout, 15*time.Second), may: public}
	f.dialer = net.Dialer{Timeout: connectTimeout, KeepAlive: -1, Control: f.control}
	f.transport = &http.Transport{
		DialContext:            f.dialer.DialContext,
		TLSHandshakeTimeout:    connectTimeout,
		TLSClientConfig:        &tls.Config{RootCAs: o.RootCAs, MinVersion: tls.VersionTLS12},
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{}, // no HTTP/2: nothing is gained by it here
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
	}
	return f
}

var errPrivate = errors.New("fetch: the address is not public")

// control is called when a socket is about to be connected, after every look-up of names.
func (f *Fetcher) control(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !f.may(to) {
		return errPrivate
	}
	return nil
}

// Budget is how many bytes some files may have together. Safe for concurrent use.
type Budget struct{ left atomic.Int64 }

// NewBudget returns a budget of so many bytes.
func NewBudget(bytes int64) *Budget {
	b := &Budget{}
	b.left.Store(bytes)
	return b
}

// take takes n bytes of it; false if there are not so many.
func (b *Budget) take(n int64) bool { return b.left.Add(-n) >= 0 }

// Get fetches the file at address, within budget. types are what it may be: media types, or beginnings of them that end in
// a slash. Errors are faults with a message for the one who wrote the address: Invalid, with the code invalid_url,
// download_failed or unsupported_media_type; TooLarge, request_too_large. When ctx ends, its cause.
func (f *Fetcher) Get(ctx context.Context, address string, types []string, budget *Budget) (File, error) {
	u, err := parse(address)
	if err != nil {
		return File{}, err
	}
	late, cancel := context.WithTimeoutCause(ctx, f.timeout, errLate)
	defer cancel()
	file, err := f.get(late, u, types, budget)
	switch {
	case ctx.Err() != nil:
		return File{}, context.Cause(ctx)
	case late.Err() != nil: // also where the body ended well: a host that is hung up on may end it so
		return File{}, failed(errLate, "the host took too long")
	}
	return file, err
}

var errLate = errors.New("fetch: it took too long")

// parse checks what can be seen of an address before anybody is asked for it.
func parse(address string) (*url.URL, error) {
	invalid := func(text string) error {
		return fault.New(fault.Invalid, "%s", text).WithCode("invalid_url")
	}
	if len(address) > maxAddress {
		return nil, invalid("the address is too long")
	}
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		return nil, invalid("the address cannot be read")
	case u.Scheme != "https":
		return nil, invalid("files are fetched from addresses that begin with https:// only")
	case u.User != nil:
		return nil, invalid("the address must be without a user and a password")
	}
	return u, nil
}

// get asks for u, and for what it redirects to.
func (f *Fetcher) get(ctx context.Context, u *url.URL, types []string, budget *Budget) (File, error) {
	for range maxRedirects + 1 {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return File{}, failed(err, "the address cannot be asked for")
		}
		request.Header = http.Header{"Accept": {accept(types)}, "Accept-Encoding": {"identity"}, "User-Agent": {"threadhub"}}
		// The transport itself, not an http.Client: no redirects by themselves, no cookies, no referrer.
		response, err := f.transport.RoundTrip(request)
		if err != nil {
			// One text for all there is: whether a name leads to something that is not public is not for strangers to know.
			return File{}, failed(unquoted(err), "the host cannot be reached from here, or is not public")
		}
		next, err := redirect(response, u)
		if err == nil && next == nil {
			return read(response, types, budget)
		}
		response.Body.Close()
		if err != nil {
			return File{}, err
		}
		u = next
	}
	return File{}, failed(nil, "there are too many redirects")
}

func accept(types []string) string {
	var list []string
	for _, t := range types {
		if strings.HasSuffix(t, "/") {
			t += "*"
		}
		list = append(list, t)
	}
	return strings.Join(list, ", ")
}

// unquoted is why a request failed, in words that hold nothing of the address, for the log.
func unquoted(err error) error {
	if errors.Is(err, errPrivate) {
		return errPrivate
	}
	return errors.New("fetch: no answer")
}

// redirect is where an answer to a request for u sends those who ask; nil if nowhere. Another host is another stranger's,
// and a page is not asked for in the place of a file.
func redirect(response *http.Response, u *url.URL) (*url.URL, error) {
	switch response.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil, nil
	}
	to, err := response.Location() // in its words relative to u
	if err != nil {
		return nil, failed(nil, "the host redirects to an address that cannot be read")
	}
	next, err := parse(to.String())
	if err != nil || !strings.EqualFold(host(next), host(u)) {
		return nil, failed(nil, "the host redirects to another address; give that one, if it is yours to give")
	}
	return next, nil
}

// host is who is asked for u, with the port if it is not the usual one.
func host(u *url.URL) string { return strings.TrimSuffix(u.Host, ":443") }

// failed is the fault of a file that could not be got.
func failed(cause error, why string) error {
	return fault.Wrap(fault.Invalid, cause, "the file at this address could not be fetched: %s", why).WithCode("download_failed")
}
