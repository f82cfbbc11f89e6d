// Package config reads what an operator writes: a YAML file, the environment and flags, each overriding the one before,
// over defaults that work.
//
// It promises that a wrong setting stops the start with a sentence that names the setting as the operator wrote it and
// says what is allowed, that all problems are reported together, that a misspelt name is a problem and not silence, and
// that no secret is ever in such a sentence. It leaves to cmd what the settings mean to the parts: no room imports it.
package config

import (
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"threadhub/internal/seal"
)

// Config is all an operator can decide. Load makes one; Default is what holds where nothing was written.
type Config struct {
	Listen         string // address of the public listener, "host:port"; an empty host is all interfaces
	OperatorListen string // address of the operator's listener: metrics, health, profiling
	DataDir        string // folder for what the process keeps on disk; made when it is missing

	DatabaseURL        seal.Secret // sqlite://path or postgres://…; empty: see Database
	MigrateDatabaseURL seal.Secret // postgres://… of the role that may migrate; empty: DatabaseURL
	RedisURL           seal.Secret // redis://… or rediss://…; tells other processes of changes at once; empty: they notice in time
	RedisCluster       bool        // redis_url leads to a Redis Cluster; one that names several addresses (addr) does anyway
	QdrantURL          seal.Secret // http(s)://host:port, for memory; not used yet

	EncryptionKey seal.Secret // one or several keys of 32 bytes in url-safe base64, commas between; the first seals
	SecretKey     seal.Secret // signs sessions of the console, at least 32 characters; not used yet

	MaxBodyBytes int64 // largest request body
	MaxCalls     int64 // calls under way at a time; 0: as many as connections, which the open files allowed bound
	Profiling    bool  // /debug/pprof on the operator's listener

	Auth      Auth
	Upstreams map[string]*Upstream // by provider; always exactly the four of Providers
	Retries   Retries
	Timeouts  Timeouts
	Orgs      Orgs
	Threads   Threads
	Streams   Streams
	Spool     Spool
	Budgets   Budgets
	Log       Log
}

// Upstream is what an operator decides about one provider.
type Upstream struct {
	BaseURL       string      // without a slash at the end
	DefaultModel  string      // what a rule's target without a model asks for, in the provider's own words
	DefaultWindow int64       // context window, in tokens, of models the catalogue does not list
	APIKey        seal.Secret // imported for the demo org; nobody else's calls use it
	RetrySafe     bool        // what it was sent and did not answer may be asked again, though it may be billed twice

	// Of Gemini alone.
	Fetch bool // files that requests point to are fetched for it

	// Of Perplexity alone.
	API    string // which of its APIs is spoken: agent or sonar
	Search string // how Sonar models are made to search: web_search, required or auto

	// Of OpenRouter alone.
	Referer, Title string // what it shows as the app that asks, where the client does not say; "" is nothing
	Adapt          bool   // change what it does in its own way into what clients of OpenAI expect
}

// Auth is how callers' keys are checked.
type Auth struct {
	FailuresPerMinute int64 // look-ups of bad API keys from one address, and at one key's id; 0: no limit
}

// Retries is what is asked again before an answer has begun.
type Retries struct {
	Most    int64 // of the same target with the same key, for one call; 0: none
	Breaker bool  // a key whose provider keeps failing is left alone for a while
}

// Timeouts bound every wait on another part.
type Timeouts struct {
	Connect     time.Duration // dial and TLS handshake with a provider
	Headers     time.Duration // from a request sent to the first header byte of a provider's stream, or of its embeddings
	Whole       time.Duration // the same where no stream was asked for: the header comes when the model is done
	Idle        time.Duration // silence inside a provider's stream
	Stream      time.Duration // a whole stream
	Write       time.Duration // a client that does not read
	Heartbeat   time.Duration // between comment lines in a stream that is silent
	Database    time.Duration // one statement on a call's way
	Redis       time.Duration // one command on a call's way
	Lease       time.Duration // silence of a process after which others settle its open calls
	Drain       time.Duration // calls in flight after SIGTERM
	DrainAccept time.Duration // new connections after SIGTERM, while load balancers notice
}

// Orgs is what the orgs' admins may do on this installation.
type Orgs struct {
	Create bool // make other orgs
}

// Threads is how conversations behave.
type Threads struct {
	TurnWait    time.Duration // how long a call waits for the turn of its thread; 0 does not wait
	KeepDeleted time.Duration // how long what a deleted thread held is kept, unseen, before it is cleared away
}

// Streams is how streamed answers behave.
type Streams struct {
	ResumeGrace  time.Duration // how long a call runs on after its client left, if somebody may come back for it; 0: it does not
	MaxLineBytes int64         // longest line of a provider's event stream
}

// Spool is where records wait, in DataDir, that the store does not take.
type Spool struct {
	MaxBytes int64 // with more in it no new calls are taken
}

// Budgets is what budgets reckon with where the catalogue does not tell: dollars for a million tokens of a model that has no
// price.
type Budgets struct {
	UnpricedInput, UnpricedOutput string
}

// Log is how the process reports.
type Log struct {
	Level  string // debug, info, warn or error
	Format string // json or text
}

// Providers lists the providers, in the order in which they are shown and tried.
func Providers() []string { return []string{"openai", "gemini", "perplexity", "openrouter"} }

// Default returns the settings of an operator who wrote nothing.
func Default() *Config {
	return &Config{
		Listen:         ":8080",
		OperatorListen: "127.0.0.1:9090",
		DataDir:        "data",
		MaxBodyBytes:   20 << 20,
		Auth:           Auth{FailuresPerMinute: 60},
		Upstreams: map[string]*Upstream{
			"openai": {BaseURL: "https://api.openai.com/v1", DefaultModel: "gpt-5.4-mini", DefaultWindow: 128_000},
			"gemini": {
				BaseURL: "https://generativelanguage.googleapis.com/v1beta", DefaultModel: "gemini-3.5-flash", DefaultWindow: 128_000, Fetch: true,
			},
			"perplexity": {
				BaseURL: "https://api.perplexity.ai", DefaultModel: "sonar", DefaultWindow: 128_000, API: "agent", Search: "web_search",
			},
			"openrouter": {BaseURL: "https://openrouter.ai/api/v1", DefaultModel: "openrouter/auto", DefaultWindow: 128_000},
		},
		Retries: Retries{Most: 2, Breaker: true},
		Timeouts: Timeouts{
			Connect:     2 * time.Second,
			Headers:     time.Minute,
			Whole:       10 * time.Minute,
			Idle:        time.Minute,
			Stream:      30 * time.Minute,
			Write:       20 * time.Second,
			Heartbeat:   10 * time.Second,
			Database:    time.Second,
			Redis:       30 * time.Millisecond,
			Lease:       20 * time.Second,
			Drain:       2 * time.Minute,
			DrainAccept: 5 * time.Second,
		},
		Orgs:    Orgs{Create: true},
		Threads: Threads{TurnWait: 10 * time.Second, KeepDeleted: 30 * 24 * time.Hour},
		Streams: Streams{ResumeGrace: 30 * time.Second, MaxLineBytes: 1 << 20},
		Spool:   Spool{MaxBytes: 256 << 20},
		Budgets: Budgets{UnpricedInput: "10", UnpricedOutput: "50"},
		Log:     Log{Level: "info", Format: "json"},
	}
}

// Database returns the URL of the store: what the operator wrote, or the SQLite file in the data folder.
func (c *Config) Database() seal.Secret {
	if !c.DatabaseURL.Empty() {
		return c.DatabaseURL
	}
	return seal.NewSecret("sqlite://" + filepath.Join(c.DataDir, "threadhub.db"))
}

// SQLiteFile returns the path of the store's file, and false when the store is not SQLite.
func (c *Config) SQLiteFile() (string, bool) {
	return strings.CutPrefix(c.Database().Reveal(), "sqlite://")
}

// RedisIsCluster reports whether Redis is a cluster: because the operator says so, or names several addresses.
func (c *Config) RedisIsCluster() bool {
	u, err := url.Parse(c.RedisURL.Reveal())
	return c.RedisCluster || err == nil && u.Query().Has("addr")
}

// Migrator returns the URL the migrations run with.
func (c *Config) Migrator() seal.Secret {
	if !c.MigrateDatabaseURL.Empty() {
		return c.MigrateDatabaseURL
	}
	return c.Database()
}

// Changed returns the paths of the settings in which a and b differ.
func Changed(a, b *Config) []string {
	var paths []string
	other := settings(b)
	for i, s := range settings(a) {
		if s.text() != other[i].text() {
			paths = append(paths, s.path)
		}
	}
	return paths
}
