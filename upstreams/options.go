package upstreams

import (
	"cmp"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"threadhub/internal/contain"
)

// Options are what an operator may set for one provider. The zero value works.
type Options struct {
	BaseURL        string          // where the provider is; "" is its own address
	ConnectTimeout time.Duration   // to connect, and again for the TLS handshake; 0 is 2 s
	HeaderTimeout  time.Duration   // from the start of a call to the header of its stream, or of its embeddings; 0 is 60 s
	WholeTimeout   time.Duration   // the same for a whole answer, whose header comes only when the model is done; 0 is 10 min
	IdleTimeout    time.Duration   // between two bytes of an answer; comments count as life; 0 is 60 s
	TotalTimeout   time.Duration   // for a call, its stream included; 0 is 30 min
	MaxLine        int             // bytes of one event of a stream; 0 is 1 MiB
	MaxBody        int64           // bytes of a whole answer, decoded, but for embeddings: their number bounds it; 0 is 64 MiB
	MaxHeader      int64           // bytes of an answer's header; 0 is 16 KiB
	RootCAs        *x509.CertPool  // who may sign the provider's certificate; nil is whom the system trusts
	Log            *slog.Logger    // nil is silence
	Panics         *contain.Panics // nil: of its own

	API    string // perplexity: which of its APIs to speak, "agent" or "sonar"; "" is the first
	Search string // perplexity: how Sonar models are made to search, "web_search", "required" or "auto"; "" is the first

	Referer, Title string // openrouter: what it shows as the app that asks, where a client does not say; "" is nothing
	Adapt          bool   // openrouter: change what it does in its own way into what clients of OpenAI expect
}

func (o Options) withDefaults() Options {
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, 2*time.Second)
	o.HeaderTimeout = cmp.Or(o.HeaderTimeout, time.Minute)
	o.WholeTimeout = cmp.Or(o.WholeTimeout, 10*time.Minute)
	o.IdleTimeout = cmp.Or(o.IdleTimeout, time.Minute)
	o.TotalTimeout = cmp.Or(o.TotalTimeout, 30*time.Minute)
	o.MaxLine = cmp.Or(o.MaxLine, 1<<20)
	o.MaxBody = cmp.Or(o.MaxBody, 64<<20)
	o.MaxHeader = cmp.Or(o.MaxHeader, 16<<10)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Panics == nil {
		o.Panics = contain.New(o.Log)
	}
	return o
}

// parseBase checks a base URL and takes the slash off its end. What is wrong with it is said without its text, which
// may hold a password.
func parseBase(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("upstreams: a base URL must be http(s)://host[:port][/path] and nothing more")
	}
	u.Path = strings.TrimRight(u.Path, "/")
	return u, nil
}
