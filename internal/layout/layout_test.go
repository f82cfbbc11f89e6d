package layout

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// room is what every room may import.
var room = []string{"openai", "internal"}

// ours is the rule of this module.
var ours = Rules{
	MayImport: map[string][]string{
		"gateway": {"orgs", "threads", "calls", "metering", "router", "upstreams", "openai", "internal"},
		"orgs":    room, "threads": room, "calls": room, "metering": room, "router": room, "upstreams": room,
		"openai": {"internal"}, "simulator": {"internal"}, "migrations": {"internal"}, "config": {"internal"},
		"internal": {}, "internal/testkit": {"internal", "migrations"},
	},
	OnlyIn: map[string][]string{
		"database/sql":                        {"internal/db", "orgs", "threads", "calls", "metering", "migrations", "internal/testkit"},
		"github.com/jackc/pgx":                {"internal/db", "orgs", "threads", "calls", "metering", "migrations", "internal/testkit"},
		"modernc.org/sqlite":                  {"internal/db", "migrations", "internal/testkit"},
		"github.com/golang-migrate/migrate":   {"migrations"},
		"github.com/redis/go-redis":           {"metering", "calls", "upstreams/signatures", "internal/bus", "internal/testkit"},
		"github.com/valyala/fasthttp":         {"gateway"},
		"github.com/prometheus/client_golang": {"gateway", "calls", "metering", "upstreams", "internal/db"},
		"github.com/knadh/koanf":              {"config"},
		"github.com/sony/gobreaker":           {"router/failover"},
		"go.uber.org/goleak":                  {"internal/testkit"},
		"testing":                             {"internal/testkit", "upstreams/upstreamstest"},
		"github.com/openai/openai-go":         {},
		"google.golang.org/genai":             {},
	},
	Exempt: []string{"cmd", "test"},
}

func TestLayout(t *testing.T) {
	wrong, err := Check(filepath.Join("..", ".."), ours)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range wrong {
		t.Error(w)
	}
}

// The check sees what is planted: each file is a line of the tree below, and want is what must be said of it.
func TestCheck(t *testing.T) {
	for _, tc := range []struct{ file, imports, want string }{
		{"threads/a.go", "threadhub/calls", "threads/a.go imports calls: threads may not"},
		{"threads/sub/a.go", "threadhub/orgs", "threads/sub/a.go imports orgs: threads may not"},
		{"openai/a.go", "threadhub/gateway", "openai/a.go imports gateway"},
		{"simulator/a.go", "threadhub/upstreams/openai", "simulator/a.go imports upstreams/openai"},
		{"simulator/a.go", "threadhub/openai", "simulator/a.go imports openai"},
		{"internal/id/a.go", "threadhub/openai", "internal/id/a.go imports openai"},
		{"internal/id/a.go", "threadhub/migrations", "internal/id/a.go imports migrations"},
		{"orgs/a.go", "threadhub/internal/testkit", "orgs/a.go imports internal/testkit"},
		{"internal/db/a.go", "threadhub/internal/testkit", "internal/db/a.go imports internal/testkit"},
		{"router/a.go", "threadhub/config", "router/a.go imports config"},
		{"gateway/a.go", "threadhub/simulator", "gateway/a.go imports simulator"},
		{"threads/a.go", "threadhub/gatewayish", "threads/a.go imports gatewayish"},
		{"helpers/a.go", "fmt", "helpers has no rule"},
		{"a.go", "fmt", ". has no rule"},
		{"orgsmore/a.go", "fmt", "orgsmore has no rule"},
		{"openai/a.go", "github.com/jackc/pgx/v5", "openai/a.go imports github.com/jackc/pgx/v5, which stays in internal/db"},
		{"openai/a.go", "github.com/jackc/pgx/v5/pgxpool", "openai/a.go imports"},
		{"router/a.go", "database/sql/driver", "router/a.go imports database/sql/driver"},
		{"orgs/a.go", "modernc.org/sqlite", "orgs/a.go imports modernc.org/sqlite"},
		{"threads/a.go", "github.com/redis/go-redis/v9", "threads/a.go imports github.com/redis"},
		{"upstreams/openai/a.go", "github.com/valyala/fasthttp", "upstreams/openai/a.go imports github.com/valyala/fasthttp, which stays in gateway"},
		{"gateway/a.go", "github.com/openai/openai-go/v3", "which stays in tests"},
		{"orgs/a.go", "testing", "orgs/a.go imports testing"},
		{"threads/a_windows.go", "threadhub/calls", "threads/a_windows.go imports calls"},

		{"threads/a.go", "threadhub/internal/id", ""},
		{"threads/a.go", "threadhub/threads/sub", ""},
		{"threads/a_test.go", "threadhub/calls", ""},
		{"threads/a_test.go", "github.com/openai/openai-go/v3", ""},
		{"threads/testdata/a.go", "threadhub/calls", ""},
		{"orgs/a.go", "github.com/jackc/pgx/v5/pgconn", ""},
		{"gateway/a.go", "threadhub/upstreams", ""},
		{"gateway/a.go", "github.com/valyala/fasthttp", ""},
		{"internal/id/a.go", "threadhub/internal/fault", ""},
		{"internal/testkit/a.go", "threadhub/migrations", ""},
		{"internal/testkit/cmd/services/a.go", "threadhub/internal/testkit", ""},
		{"cmd/threadhub/a.go", "threadhub/simulator", ""},
		{"cmd/threadhub/a.go", "github.com/knadh/koanf/v2", ""},
		{"test/sdk/a.go", "github.com/openai/openai-go/v3", ""},
		{"node_modules/x/a.go", "threadhub/calls", ""},
		{".hidden/a.go", "threadhub/calls", ""},
		{"tools/go.mod", "", ""},
	} {
		root := t.TempDir()
		write(t, root, "go.mod", "module threadhub\n\ngo 1.26\n")
		switch {
		case strings.HasSuffix(tc.file, "go.mod"):
			write(t, root, tc.file, "module tools\n")
			write(t, root, filepath.Dir(tc.file)+"/a.go", "package tools\n\nimport _ \"threadhub/gateway\"\n")
		default:
			write(t, root, tc.file, "//go:build never\n\npackage x\n\nimport _ \""+tc.imports+"\"\n")
		}
		got, err := Check(root, ours)
		if err != nil {
			t.Fatal(err)
		}
		if tc.want == "" && len(got) > 0 || tc.want != "" && (len(got) != 1 || !strings.Contains(got[0], tc.want)) {
			t.Errorf("%s importing %s: %q, want %q", tc.file, tc.imports, got, tc.want)
		}
	}
}

// A file nobody can read the imports of is an error, not a pass.
func TestCheckBroken(t *testing.T) {
	root := t.TempDir()
	write(t, root, "go.mod", "module threadhub\n")
	write(t, root, "orgs/a.go", "package orgs\nimport (\"threadhub/calls\n")
	if _, err := Check(root, ours); err == nil {
		t.Error("passed")
	}
	if _, err := Check(t.TempDir(), ours); err == nil {
		t.Error("a root without go.mod passed")
	}
}

// Every room the rules name, and no rule for what does not exist.
func TestRules(t *testing.T) {
	for dir, may := range ours.MayImport {
		for _, m := range may {
			if _, ok := longest(keys(ours.MayImport), m); !ok {
				t.Errorf("%s may import %s, which has no rule", dir, m)
			}
		}
	}
	for what, dirs := range ours.OnlyIn {
		for _, d := range dirs {
			if _, ok := longest(keys(ours.MayImport), d); !ok {
				t.Errorf("%s stays in %s, which has no rule", what, d)
			}
		}
	}
	if !slices.Contains(ours.Exempt, "cmd") {
		t.Error("cmd is not exempt")
	}
}

func write(t *testing.T, root, name, content string) {
	t.Helper()
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
