package config

import (
	"bytes"
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"threadhub/internal/seal"
)

var goodKey = base64.URLEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))

// alike compares settings with their secrets.
var alike = cmp.Comparer(func(a, b seal.Secret) bool { return a.Reveal() == b.Reveal() })

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "threadhub.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func parsed(t *testing.T, args ...string) *Flags {
	t.Helper()
	fs := flag.NewFlagSet("test", flag.ContinueOnError)
	f := Register(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestNothingWrittenIsTheDefaults(t *testing.T) {
	c, err := Load(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), c, alike); diff != "" {
		t.Errorf("Load without anything differs from Default:\n%s", diff)
	}
	if got := c.Database().Reveal(); got != "sqlite://data/threadhub.db" {
		t.Errorf("database is %s", got)
	}
}

// What the documents promise of the defaults.
func TestDefaults(t *testing.T) {
	c := Default()
	for name, ok := range map[string]bool{
		"listen":         c.Listen == ":8080",
		"operator":       c.OperatorListen == "127.0.0.1:9090",
		"body":           c.MaxBodyBytes == 20<<20,
		"turn wait":      c.Threads.TurnWait == 10*time.Second,
		"grace":          c.Streams.ResumeGrace == 30*time.Second,
		"line":           c.Streams.MaxLineBytes == 1<<20,
		"connect":        c.Timeouts.Connect == 2*time.Second,
		"headers":        c.Timeouts.Headers == 60*time.Second,
		"idle":           c.Timeouts.Idle == 60*time.Second,
		"write":          c.Timeouts.Write == 20*time.Second,
		"heartbeat":      c.Timeouts.Heartbeat == 10*time.Second,
		"database":       c.Timeouts.Database == time.Second,
		"redis":          c.Timeouts.Redis == 30*time.Millisecond,
		"drain":          c.Timeouts.Drain == 120*time.Second,
		"drain accept":   c.Timeouts.DrainAccept == 5*time.Second,
		"stream":         c.Timeouts.Stream == 30*time.Minute,
		"lease":          c.Timeouts.Lease == 20*time.Second,
		"no profiling":   !c.Profiling,
		"admins":         c.Orgs.Create,
		"bad keys":       c.Auth.FailuresPerMinute == 60,
		"openai":         c.Upstreams["openai"].BaseURL == "https://api.openai.com/v1",
		"openrouter":     c.Upstreams["openrouter"].DefaultModel == "openrouter/auto",
		"gemini":         c.Upstreams["gemini"].Fetch,
		"perplexity":     c.Upstreams["perplexity"].API == "agent" && c.Upstreams["perplexity"].Search == "web_search",
		"four providers": len(c.Upstreams) == len(Providers()) && len(Providers()) == 4,
	} {
		if !ok {
			t.Errorf("%s is not what the documents say", name)
		}
	}
}

// example.yaml is where operators look things up, so it must be whole and true.
func TestExampleNamesEverySettingWithItsDefault(t *testing.T) {
	text, err := os.ReadFile("example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Load(Options{File: "example.yaml", Samples: true})
	if err != nil {
		t.Fatal(err)
	}
	if c.EncryptionKey.Reveal() != sampleEncryptionKey || c.SecretKey.Reveal() != sampleSecretKey {
		t.Error("the sample secrets of example.yaml are not the ones that are refused")
	}
	c.EncryptionKey, c.SecretKey = seal.Secret{}, seal.Secret{}
	if diff := cmp.Diff(Default(), c, alike); diff != "" {
		t.Errorf("example.yaml differs from the defaults:\n%s", diff)
	}
	for _, s := range settings(Default()) {
		last := s.path[strings.LastIndex(s.path, ".")+1:]
		if !bytes.Contains(text, []byte(last+":")) {
			t.Errorf("example.yaml does not name %s", s.path)
		}
		if !strings.HasPrefix(s.env, envPrefix) && !bytes.Contains(text, []byte(s.env)) {
			t.Errorf("example.yaml does not tell that %s is %s", s.path, s.env)
		}
	}
	var problems Problems
	if l := parseFile(text, "example.yaml", settings(Default()), &problems); len(problems.Sentences) > 0 {
		t.Error(problems.Sentences)
	} else {
		for _, s := range settings(Default()) {
			if _, written := l.names[s.path]; !written && s.text() != "" {
				t.Errorf("example.yaml does not set %s", s.path)
			}
		}
	}
}

func TestSampleSecretsAreRefused(t *testing.T) {
	_, err := Load(Options{File: "example.yaml"})
	if err == nil {
		t.Fatal("the sample secrets were taken")
	}
	for _, name := range []string{"encryption_key in example.yaml", "secret_key in example.yaml"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("the error does not name %q:\n%v", name, err)
		}
	}
	refused := func(env ...string) {
		t.Helper()
		if _, err := Load(Options{Env: env}); err == nil {
			t.Errorf("%v was taken", env)
		}
	}
	refused("ENCRYPTION_KEY=" + goodKey + "," + sampleEncryptionKey)
	refused("ENCRYPTION_KEY=" + strings.TrimRight(sampleEncryptionKey, "="))
	refused("ENCRYPTION_KEY=" + base64.URLEncoding.EncodeToString(make([]byte, 32)))
}

func TestEachPlaceOverridesTheOneBefore(t *testing.T) {
	file := write(t, "listen: ':1001'\noperator_listen: ':1002'\ntimeouts:\n  connect: 3s\n  idle: 4s\nmax_body_bytes: 1048576\nprofiling: true\n")
	c, err := Load(Options{
		File:  file,
		Env:   []string{"THREADHUB_OPERATOR_LISTEN=:2002", "THREADHUB_TIMEOUTS__CONNECT=5s", "THREADHUB_TIMEOUTS__IDLE=", "OTHER=1"},
		Flags: parsed(t, "--timeouts.connect", "7s", "--upstreams.openai.base-url=http://127.0.0.1:9/v1/"),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Listen = ":1001"                           // file over default
	want.OperatorListen = ":2002"                   // environment over file
	want.Timeouts.Connect = 7 * time.Second         // flag over both
	want.Timeouts.Idle = 4 * time.Second            // an empty variable is like none
	want.MaxBodyBytes, want.Profiling = 1<<20, true // numbers and truths of YAML
	want.Upstreams["openai"].BaseURL = "http://127.0.0.1:9/v1"
	if diff := cmp.Diff(want, c, alike); diff != "" {
		t.Error(diff)
	}
}

// Every setting can be written in all the places it has names for, and arrives in its own field.
func TestEveryNameReachesItsField(t *testing.T) {
	other := map[string]string{
		"listen": ":1", "operator_listen": ":2", "data_dir": "elsewhere", "database_url": "postgres://u:p@h/d", "migrate_database_url": "postgres://o:p@h/d",
		"redis_url": "redis://h:1", "redis_cluster": "true", "qdrant_url": "http://h:1", "encryption_key": goodKey, "secret_key": strings.Repeat("s", 40), "max_body_bytes": "1MiB",
		"profiling": "true", "orgs.create": "false", "auth.failures_per_minute": "7", "max_calls": "7", "streams.max_line_bytes": "2MiB", "spool.max_bytes": "1GiB", "log.level": "warn", "log.format": "text",
		"upstreams.gemini.fetch": "false", "upstreams.perplexity.api": "sonar", "upstreams.perplexity.search": "auto",
		"upstreams.openrouter.referer": "https://app.example", "upstreams.openrouter.title": "An App", "upstreams.openrouter.adapt": "true",
		"retries.most": "3", "retries.breaker": "false", "budgets.unpriced_input": "0.25", "budgets.unpriced_output": "7",
	}
	for _, s := range settings(Default()) {
		text := other[s.path]
		switch {
		case text != "":
		case strings.HasSuffix(s.path, "base_url"):
			text = "http://127.0.0.1:1/x"
		case strings.HasSuffix(s.path, "default_model"), strings.HasSuffix(s.path, "api_key"):
			text = "something"
		case strings.HasSuffix(s.path, "default_window"):
			text = "4096"
		case strings.HasSuffix(s.path, "retry_safe"):
			text = "true"
		default:
			text = "9s"
		}
		keys := strings.Split(s.path, ".")
		yaml := ""
		for depth, key := range keys {
			yaml += "\n" + strings.Repeat("  ", depth) + key + ":"
		}
		places := map[string]Options{
			s.env:  {Env: []string{s.env + "=" + text}},
			"yaml": {File: write(t, yaml+" "+fmt.Sprintf("%q", text))},
		}
		if s.flag != "" {
			places["--"+s.flag] = Options{Flags: parsed(t, "--"+s.flag+"="+text)}
		}
		for place, o := range places {
			if s.path == "migrate_database_url" {
				o.Env = append(o.Env, "DATABASE_URL=postgres://h/d")
			}
			c, err := Load(o)
			if err != nil {
				t.Errorf("%s: %v", place, err)
				continue
			}
			for _, got := range settings(c) {
				if got.path == s.path && got.text() != text {
					t.Errorf("%s=%s arrived as %s", place, text, got.text())
				}
			}
		}
	}
}

func TestAllProblemsAreToldAtOnce(t *testing.T) {
	file := write(t, "lissten: ':1'\ntimeouts:\n  conect: 1s\n  idle: 5\nupstreams: none\nlog: {level: loud}\nthreads:\n  turn_wait: [1s]\n")
	_, err := Load(Options{
		File: file,
		Env: []string{
			"THREADHUB_TIMEOUT__DRAIN=1s", "THREADHUB_DATABASE_URL=postgres://u:hunter2@h/d", "ENCRYPTION_KEY=hunter2",
			"DATABASE_URL=mysql://u:hunter2@h/d", "THREADHUB_TURN_WAIT=1s",
		},
		Flags: parsed(t, "--listen=8080", "--max-body-bytes=5TB"),
	})
	if err == nil {
		t.Fatal("no error")
	}
	got := err.Error()
	for _, want := range []string{
		"lissten in " + file + " is not a setting; did you mean listen?",
		"timeouts.conect in " + file + " is not a setting; did you mean timeouts.connect?",
		"timeouts.idle in " + file + " is 5: it must be a duration with a unit",
		"upstreams in " + file + " has settings below it",
		"log.level in " + file + " is loud: it must be debug, info, warn or error",
		"threads.turn_wait in " + file + " must be one value, not a list",
		"THREADHUB_TIMEOUT__DRAIN is not a setting; did you mean THREADHUB_TIMEOUTS__DRAIN",
		"THREADHUB_DATABASE_URL is not a setting; did you mean DATABASE_URL",
		"THREADHUB_TURN_WAIT is not a setting; did you mean THREADHUB_THREADS__TURN_WAIT",
		"ENCRYPTION_KEY must be 32 bytes",
		"DATABASE_URL must be a URL that begins with sqlite://, postgres:// or postgresql://",
		"--listen is 8080: it must be host:port",
		"--max-body-bytes is 5TB: it must be a number of bytes from 1KiB to 1GiB",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("not told: %s", want)
		}
	}
	if strings.Contains(got, "hunter2") {
		t.Error("a secret is in the error")
	}
	if t.Failed() {
		t.Log(got)
	}
}

func TestRedisIsACluster(t *testing.T) {
	for url, want := range map[string]bool{"redis://h:1/3": false, "redis://h:1": false, "redis://h:1?addr=i:1": true, "": false} {
		c, err := Load(Options{Env: []string{"REDIS_URL=" + url}})
		if err != nil || c.RedisIsCluster() != want {
			t.Errorf("%q: %v, %v", url, c.RedisIsCluster(), err)
		}
	}
	c, err := Load(Options{Env: []string{"REDIS_URL=redis://h:1/0", "THREADHUB_REDIS_CLUSTER=true"}})
	if err != nil || !c.RedisIsCluster() {
		t.Errorf("what the operator says: %v", err)
	}
}

func TestWrongValues(t *testing.T) {
	f := func(want string, env ...string) {
		t.Helper()
		_, err := Load(Options{Env: env})
		if err == nil {
			t.Errorf("%v was taken", env)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: the error does not say %q:\n%v", env, want, err)
		}
	}
	f("THREADHUB_LISTEN", "THREADHUB_LISTEN=localhost")
	f("65535", "THREADHUB_LISTEN=:65536")
	f("dollars for a million tokens", "THREADHUB_BUDGETS__UNPRICED_INPUT=0.00")
	f("dollars for a million tokens", "THREADHUB_BUDGETS__UNPRICED_OUTPUT=-1")
	f("metrics must not be where strangers are", "THREADHUB_LISTEN=127.0.0.1:9090")
	f("a part", "THREADHUB_TIMEOUTS__DRAIN=1s", "THREADHUB_TIMEOUTS__DRAIN_ACCEPT=2s")
	f("is for Postgres", "THREADHUB_MIGRATE_DATABASE_URL=postgres://h/d")
	f("must name a file", "DATABASE_URL=sqlite://")
	f("must name a host", "DATABASE_URL=postgres:///name")
	f("not escaped", "DATABASE_URL=postgres://u:pa%zz@h/d")
	f("must be a URL", "REDIS_URL=localhost:6379")
	f("none but 0", "REDIS_URL=redis://h:1/3", "THREADHUB_REDIS_CLUSTER=true")
	f("none but 0", "REDIS_URL=redis://h:1/3?addr=i:1")
	f("key 2", "ENCRYPTION_KEY="+goodKey+",short")
	f("key 2", "ENCRYPTION_KEY="+goodKey+",")
	f("at least 32", "SECRET_KEY=short")
	f("printable ASCII", "OPENAI_API_KEY=sk one")
	f("without a user", "THREADHUB_UPSTREAMS__OPENAI__BASE_URL=https://me:hunter2@h/v1")
	f("must be a URL", "THREADHUB_UPSTREAMS__OPENAI__BASE_URL=file:///etc/passwd")
	f("must be at most 256 characters of printable ASCII", "THREADHUB_UPSTREAMS__OPENROUTER__TITLE=a\nb")
	f("whole number", "THREADHUB_UPSTREAMS__OPENAI__DEFAULT_WINDOW=1e6")
	f("agent or sonar", "THREADHUB_UPSTREAMS__PERPLEXITY__API=chat")
	f("web_search, required or auto", "THREADHUB_UPSTREAMS__PERPLEXITY__SEARCH=always")
	f("not a setting", "THREADHUB_UPSTREAMS__OPENAI__API=agent")
	f("true or false", "THREADHUB_PROFILING=yes")
	f("from 1ms to 1h", "THREADHUB_TIMEOUTS__IDLE=-1s")
	f("from 1ms to 1h", "THREADHUB_TIMEOUTS__IDLE=2h")
}

func TestWrongFiles(t *testing.T) {
	f := func(want, text string) {
		t.Helper()
		_, err := Load(Options{File: write(t, text)})
		if err == nil {
			t.Errorf("%q was taken", text)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: the error does not say %q:\n%v", text, want, err)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the error repeats the file:\n%v", text, err)
		}
	}
	f("near line 2", "listen: ':1'\nlisten: ':2'\n")
	f("near line", "secret_key: 'hunter2\n")
	f("not a YAML file of settings", "hunter2")
	f("not a YAML file of settings", "- hunter2")
	f("is there twice", "timeouts.idle: 1s\ntimeouts:\n  idle: 2s\n")
	f("larger than 1MiB", "#"+strings.Repeat("x", maxFile))

	_, err := Load(Options{File: filepath.Join(t.TempDir(), "missing.yaml")})
	if err == nil || !strings.Contains(err.Error(), "--config names ") || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a missing file: %v", err)
	}
}

func TestEmptyIsLikeNone(t *testing.T) {
	for _, text := range []string{"", "\n# only a comment\n", "redis_url:\ntimeouts:\nlisten: ''\n"} {
		c, err := Load(Options{File: write(t, text)})
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if diff := cmp.Diff(Default(), c, alike); diff != "" {
			t.Errorf("%q:\n%s", text, diff)
		}
	}
}

// Kubernetes puts these into every container of a namespace that has a Service named threadhub.
func TestVariablesOfServicesAreNotOurs(t *testing.T) {
	_, err := Load(Options{Env: []string{
		"THREADHUB_SERVICE_HOST=10.0.0.1", "THREADHUB_SERVICE_PORT=80", "THREADHUB_SERVICE_PORT_HTTP=80", "THREADHUB_PORT=tcp://10.0.0.1:80",
		"THREADHUB_PORT_80_TCP=tcp://10.0.0.1:80", "THREADHUB_PORT_80_TCP_ADDR=10.0.0.1", "THREADHUB_SOAK=1", "THREADHUB_TEST_SERVICES=required",
	}})
	if err != nil {
		t.Error(err)
	}
}

func TestSecretsHaveNoFlags(t *testing.T) {
	fs := flag.NewFlagSet("test", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	Register(fs)
	for _, s := range settings(Default()) {
		if found := fs.Lookup(strings.ReplaceAll(s.path, "_", "-")); (found != nil) == s.secret {
			t.Errorf("%s: secret %v, flag %v", s.path, s.secret, found)
		}
	}
}

func TestAConfigDoesNotPrintItsSecrets(t *testing.T) {
	const canary = "canary-0123456789-canary-0123456789"
	c, err := Load(Options{Env: []string{
		"SECRET_KEY=" + canary, "OPENAI_API_KEY=" + canary, "ENCRYPTION_KEY=" + goodKey,
		"DATABASE_URL=postgres://u:" + canary + "@h/d", "REDIS_URL=redis://:" + canary + "@h",
	}})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("start", "config", c)
	for _, printed := range []string{fmt.Sprintf("%v", c), fmt.Sprintf("%+v", *c), fmt.Sprintf("%#v", *c), log.String()} {
		if strings.Contains(printed, "canary") || strings.Contains(printed, goodKey) {
			t.Errorf("a secret is in %s", printed)
		}
	}
}

func FuzzLoad(f *testing.F) {
	example, err := os.ReadFile("example.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example, "THREADHUB_LISTEN", ":1")
	f.Add([]byte("timeouts: {idle: 1s}\n1: {2: 3}\n"), "ENCRYPTION_KEY", goodKey)
	f.Add([]byte("a: &a [1]\nb: *a\n"), "THREADHUB_TIMEOUTS__IDLE", "1h")
	f.Add([]byte("listen: 2001-01-01\n? [x]\n: y"), "DATABASE_URL", "postgres://u:p@h/d")
	f.Fuzz(func(t *testing.T, file []byte, name, value string) {
		all := settings(Default())
		var problems Problems
		parseFile(file, "file.yaml", all, &problems)

		const canary = "canary-0123456789-canary-0123456789"
		c, err := Load(Options{Env: []string{name + "=" + value, "SECRET_KEY=" + canary, "DATABASE_URL=canary://" + canary}})
		if err == nil {
			t.Fatal("a wrong DATABASE_URL was taken", c)
		}
		if !strings.Contains(name+value, "canary") && strings.Contains(err.Error(), "canary") {
			t.Fatalf("a secret is in the error: %v", err)
		}
		if _, err := Load(Options{Env: []string{name + "=" + value}}); err != nil && err.Error() == "" {
			t.Fatal("a problem without a sentence")
		}
	})
}

func TestChangedNamesSettings(t *testing.T) {
	a, b := Default(), Default()
	if got := Changed(a, b); len(got) != 0 {
		t.Errorf("nothing changed, and yet %v", got)
	}
	b.Log.Level, b.SecretKey, b.Upstreams["gemini"].DefaultWindow = "warn", seal.NewSecret("x"), 1
	if diff := cmp.Diff([]string{"secret_key", "upstreams.gemini.default_window", "log.level"}, Changed(a, b)); diff != "" {
		t.Error(diff)
	}
}
