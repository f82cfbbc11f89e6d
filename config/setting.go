package config

import (
	"strings"

	"threadhub/internal/seal"
)

// setting is one thing an operator can write: its names, and how its text gets into a Config and out of it again.
type setting struct {
	path   string // in the YAML file: "timeouts.connect"
	env    string // in the environment: "THREADHUB_TIMEOUTS__CONNECT"
	flag   string // on the command line, without dashes: "timeouts.connect"; "" for what must not be seen in a list of processes
	about  string // one line for --help
	secret bool   // its value is never shown
	yesNo  bool   // its flag may stand alone, for true

	parse func(text string) error // errors continue the sentence "<name> …": "must be …"
	text  func() string           // the value as an operator would write it
}

const envPrefix = "THREADHUB_"

// settings returns every setting, bound to the fields of c, in the order of example.yaml.
func settings(c *Config) []setting {
	t := &c.Timeouts
	s := []setting{
		address("listen", "address of the public listener", &c.Listen),
		address("operator_listen", "address of the operator's listener: metrics and health", &c.OperatorListen),
		folder("data_dir", "folder for what is kept on disk", &c.DataDir),
		serviceURL("database_url", "sqlite://path or postgres://…; empty: sqlite in the data folder", &c.DatabaseURL, "sqlite", "postgres", "postgresql"),
		serviceURL("migrate_database_url", "postgres://… of the role that may migrate; empty: the database's", &c.MigrateDatabaseURL, "postgres", "postgresql"),
		serviceURL("redis_url", "redis://… or rediss://…; tells processes of changes at once", &c.RedisURL, "redis", "rediss"),
		boolean("redis_cluster", "redis_url leads to a Redis Cluster", &c.RedisCluster),
		serviceURL("qdrant_url", "http://… or https://…; not used yet", &c.QdrantURL, "http", "https"),
		sealing("encryption_key", "seals provider keys: 32 bytes in url-safe base64", &c.EncryptionKey),
		passphrase("secret_key", "signs sessions of the console; not used yet", &c.SecretKey),
		byteCount("max_body_bytes", "largest request body", &c.MaxBodyBytes, 1<<10, 1<<30),
		count("max_calls", "calls under way at a time; 0: as many as open files allow", &c.MaxCalls, 0, 1_000_000),
		boolean("profiling", "profiles on the operator's listener", &c.Profiling),
		count("auth.failures_per_minute", "look-ups of bad API keys from one address; 0: no limit", &c.Auth.FailuresPerMinute, 0, 1_000_000),
	}
	for _, name := range Providers() {
		u := c.Upstreams[name]
		at := "upstreams." + name + "."
		s = append(s,
			baseURL(at+"base_url", "where "+name+" is", &u.BaseURL),
			model(at+"default_model", "model for rules that name only "+name, &u.DefaultModel),
			count(at+"default_window", "window, in tokens, of models the catalogue does not list", &u.DefaultWindow, 1_000, 100_000_000),
			token(at+"api_key", "the demo org's key at "+name, &u.APIKey),
			boolean(at+"retry_safe", "ask again what was sent and not answered, though it may be billed twice", &u.RetrySafe),
		)
		if name == "perplexity" {
			s = append(s,
				choice(at+"api", "its API: agent, or sonar for accounts that still have it", &u.API, "agent", "sonar"),
				choice(at+"search", "how Sonar models are made to search: web_search, required or auto", &u.Search, "web_search", "required", "auto"),
			)
		}
	}
	s = append(s, boolean("upstreams.gemini.fetch", "fetch files that requests point to", &c.Upstreams["gemini"].Fetch))
	u := c.Upstreams["openrouter"]
	s = append(s,
		header("upstreams.openrouter.referer", "address of the app that it shows, where the client names none", &u.Referer),
		header("upstreams.openrouter.title", "name of the app that it shows, where the client names none", &u.Title),
		boolean("upstreams.openrouter.adapt", "require parameters, and tell reasoning under both names", &u.Adapt),
	)
	s = append(s,
		count("retries.most", "how often one call may ask the same again", &c.Retries.Most, 0, 5),
		boolean("retries.breaker", "leave a key alone for a while whose provider keeps failing", &c.Retries.Breaker),
		duration("timeouts.connect", "dial and TLS handshake with a provider", &t.Connect, short, long),
		duration("timeouts.headers", "until the first header byte of a provider's stream", &t.Headers, short, long),
		duration("timeouts.whole", "until the first header byte of a whole answer", &t.Whole, short, long),
		duration("timeouts.idle", "silence inside a provider's stream", &t.Idle, short, long),
		duration("timeouts.stream", "a whole stream", &t.Stream, short, 24*long),
		duration("timeouts.write", "a client that does not read", &t.Write, short, long),
		duration("timeouts.heartbeat", "between comment lines in a silent stream", &t.Heartbeat, short, long),
		duration("timeouts.database", "one statement on a call's way", &t.Database, short, long),
		duration("timeouts.redis", "one command on a call's way", &t.Redis, short, long),
		duration("timeouts.lease", "silence of a process after which others settle its open calls", &t.Lease, short, long),
		duration("timeouts.drain", "calls in flight after SIGTERM", &t.Drain, 0, long),
		duration("timeouts.drain_accept", "new connections after SIGTERM", &t.DrainAccept, 0, long),
		boolean("orgs.create", "admins of an org may make others", &c.Orgs.Create),
		duration("threads.turn_wait", "how long a call waits for its thread", &c.Threads.TurnWait, 0, long),
		duration("threads.keep_deleted", "how long a deleted thread is kept before it is cleared away", &c.Threads.KeepDeleted, 0, 10*365*24*long),
		duration("streams.resume_grace", "how long a call runs on without its client, where somebody can come back for its answer", &c.Streams.ResumeGrace, 0, long),
		byteCount("streams.max_line_bytes", "longest line of a provider's event stream", &c.Streams.MaxLineBytes, 4<<10, 32<<20),
		byteCount("spool.max_bytes", "what may wait on disk for the store before new calls are refused", &c.Spool.MaxBytes, 1<<20, 1<<40),
		price("budgets.unpriced_input", "dollars for a million tokens read, of models without a price", &c.Budgets.UnpricedInput),
		price("budgets.unpriced_output", "the same for tokens written", &c.Budgets.UnpricedOutput),
		choice("log.level", "debug, info, warn or error", &c.Log.Level, "debug", "info", "warn", "error"),
		choice("log.format", "json or text", &c.Log.Format, "json", "text"),
	)
	for i := range s {
		s[i].env = envName(s[i].path)
		if !s[i].secret {
			s[i].flag = strings.ReplaceAll(s[i].path, "_", "-")
		}
	}
	return s
}

// envName is the variable of the setting at path: the names everybody expects, and ours for all others.
func envName(path string) string {
	switch path {
	case "database_url", "redis_url", "qdrant_url", "encryption_key", "secret_key":
		return strings.ToUpper(path)
	}
	if provider, ok := strings.CutSuffix(strings.TrimPrefix(path, "upstreams."), ".api_key"); ok {
		return strings.ToUpper(provider) + "_API_KEY"
	}
	return envPrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "__"))
}

// hidden is a setting of a secret field whose text ok accepts.
func hidden(path, about string, field *seal.Secret, ok func(text string) error) setting {
	s := setting{path: path, about: about, secret: true}
	s.text = field.Reveal
	s.parse = func(text string) error {
		if err := ok(text); err != nil {
			return err
		}
		*field = seal.NewSecret(text)
		return nil
	}
	return s
}

// plain is a setting of a field of text that ok accepts.
func plain(path, about string, field *string, ok func(text string) error) setting {
	s := setting{path: path, about: about}
	s.text = func() string { return *field }
	s.parse = func(text string) error {
		if err := ok(text); err != nil {
			return err
		}
		*field = text
		return nil
	}
	return s
}
