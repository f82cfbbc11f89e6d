package tenancy

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"threadhub/internal/testkit"
	"threadhub/test/rig"
)

// What a role may not do leaves nothing in Redis either: not a byte is kept, and no other process is told of anything.
func TestRefusalsWriteNothingToRedis(t *testing.T) {
	server := testkit.StartFor(t, testkit.Options{NoPostgres: true}).Redis
	tab := readTable(t)
	w := newWorld(t, rig.Stores["sqlite"](t), "REDIS_URL="+server.URL())
	o, err := redis.ParseURL(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(o)
	defer func() { _ = client.Close() }()
	tenant := w.orgs[0]
	before, kept := quiet(t, client), keys(t, client) // the world's own conversations are told for a moment yet
	for _, c := range tab.cells(func(_ string, status int) bool { return status >= 400 }) {
		w.ask(t, tenant, c, tab.want(c))
	}
	if diff := cmp.Diff(before, quiet(t, client)); diff != "" {
		t.Errorf("refusals ran commands that write (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(kept, keys(t, client)); diff != "" {
		t.Errorf("refusals changed what Redis keeps (-before +after):\n%s", diff)
	}
	// An admin's change does: the comparison can see.
	w.Must(t, 200, "PUT", "/api/orgs/"+tenant.id+"/providers/gemini", tenant.keys["admin"], map[string]string{"api_key": "sk-another-one"})
	testkit.Eventually(t, 10*time.Second, func() bool { return !cmp.Equal(before, commands(t, client)) }, "a change to be told to other processes")
}

func keys(t *testing.T, client *redis.Client) []string {
	t.Helper()
	list, err := client.Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

// quiet returns the commands when none has been run for longer than a process takes to tell of what it did.
func quiet(t *testing.T, client *redis.Client) (all map[string]string) {
	t.Helper()
	since := time.Now()
	testkit.Eventually(t, 20*time.Second, func() bool {
		if now := commands(t, client); !cmp.Equal(all, now) {
			all, since = now, time.Now()
		}
		return time.Since(since) > 1500*time.Millisecond
	}, "Redis to be told nothing more")
	return all
}

// commands are how often each command was run that is not about connections or asks nothing but how things are.
func commands(t *testing.T, client *redis.Client) map[string]string {
	t.Helper()
	info, err := client.Info(context.Background(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	apart := []string{"ping", "hello", "client|setinfo", "client|setname", "client|maint_notifications", "info", "keys", "subscribe", "unsubscribe", "config|get", "command"}
	all := map[string]string{}
	for line := range strings.Lines(info) {
		name, rest, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":")
		if ok && strings.HasPrefix(line, "cmdstat_") && !slices.Contains(apart, name) {
			calls, _, _ := strings.Cut(rest, ",")
			all[name] = calls
		}
	}
	return all
}
