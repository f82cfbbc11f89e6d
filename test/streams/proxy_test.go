package streams

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"threadhub/internal/testkit"
	sim "threadhub/simulator"
	"threadhub/test/rig"
)

// patience is how long the proxies of this test wait for the next byte of an answer; real ones have a minute, where the
// gateway has a heartbeat each ten seconds.
const patience = 2 * time.Second

// A model that thinks for longer than a proxy waits is not cut off by it: the gateway's heartbeats come through at once.
// Without them it would be.
func TestHeartbeatsKeepSilentStreamsThroughProxies(t *testing.T) {
	provider := rig.Simulator(t, sim.Options{})
	t.Cleanup(rig.CloseIdle)
	for heartbeat, whole := range map[string]bool{"300ms": true, "30s": false} {
		h := rig.NewHouse(t, rig.Options{Database: rig.Stores["sqlite"](t), Sim: provider})
		admin := h.Seed("Proxies", "admin@proxies.test", "admin")
		g := h.Serve("THREADHUB_TIMEOUTS__HEARTBEAT=" + heartbeat)
		g.ProviderKeys(t, admin)
		t.Cleanup(func() {
			if err := g.Stop(30 * time.Second); err != nil {
				t.Error(err)
			}
		})
		for name, start := range map[string]func(*testing.T, string) string{"a plain proxy": plainProxy, "nginx": nginx} {
			t.Run(name+", a heartbeat each "+heartbeat, func(t *testing.T) {
				t.Parallel()
				body, err := ask(start(t, g.Host()), admin.Key, "[[sim first=4s chunks=2 delay=4s text=thought]]")
				if done := err == nil && bytes.HasSuffix(body, []byte("data: [DONE]\n\n")); done != whole {
					t.Errorf("all of the stream came: %v, %v; %q", done, err, body[max(0, len(body)-300):])
				}
				if beats := bytes.Count(body, []byte(": ping\n\n")); whole && beats < 10 {
					t.Errorf("%d heartbeats came through", beats)
				}
			})
		}
	}
}

// ask streams a chat through the proxy at addr and returns what came.
func ask(addr, key, text string) ([]byte, error) {
	body := fmt.Sprintf(`{"model":"openai/gpt-4.1-mini","stream":true,"messages":[{"role":"user","content":%q}]}`, text)
	req, err := http.NewRequest("POST", "http://"+addr+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	return io.ReadAll(resp.Body)
}

// plainProxy hands bytes on, and ends both connections when the gateway says nothing for longer than patience.
func plainProxy(t *testing.T, to string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				_ = client.Close()
				continue
			}
			closeBoth := func() { _, _ = client.Close(), server.Close() }
			wg.Go(func() { defer closeBoth(); _, _ = io.Copy(server, client) })
			wg.Go(func() {
				defer closeBoth()
				b := make([]byte, 4<<10)
				for {
					_ = server.SetReadDeadline(time.Now().Add(patience))
					n, err := server.Read(b)
					if _, werr := client.Write(b[:n]); err != nil || werr != nil {
						return
					}
				}
			})
		}
	})
	return ln.Addr().String()
}

const nginxConf = `daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr crit;
events { worker_connections 64; }
http {
	access_log off;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	server {
		listen %s;
		location / {
			proxy_pass http://%s;
			proxy_http_version 1.1;
			proxy_read_timeout 2s;
		}
	}
}
`

// nginx starts one with its own settings, but for how long it waits.
func nginx(t *testing.T, to string) string {
	t.Helper()
	bin, err := exec.LookPath("nginx")
	if errors.Is(err, exec.ErrNotFound) {
		bin, err = exec.LookPath("/usr/sbin/nginx")
	}
	if err != nil {
		testkit.Lacks(t, "nginx")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_ = ln.Close()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConf, addr, to), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "-p", dir, "-c", conf, "-e", "stderr")
	var said testkit.Log
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	testkit.Eventually(t, 10*time.Second, func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, "nginx to listen: %s", &said)
	return addr
}
