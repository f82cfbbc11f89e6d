package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"threadhub/internal/db"
	"threadhub/internal/seedbug"
)

// health answers the public GET /health, for load balancers: whether to send requests here. It asks no other part.
func (g *Gateway) health(x *request) {
	x.rc.Response.Header.Set("Cache-Control", "no-store")
	if g.draining.Load() {
		x.json(503, map[string]string{"status": "draining"})
		return
	}
	x.json(200, map[string]string{"status": "ok", "version": g.opts.Version})
}

// newOperator builds the operator's server: metrics, liveness, readiness, and profiles if asked for. It is meant for a
// listener that strangers cannot reach; it shows nothing of orgs.
func (g *Gateway) newOperator() *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g.opts.Registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /health/live", func(w http.ResponseWriter, _ *http.Request) {
		operatorJSON(w, 200, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /health/ready", func(w http.ResponseWriter, _ *http.Request) {
		switch {
		case g.draining.Load() && !seedbug.On("ready-while-draining"):
			operatorJSON(w, 503, map[string]string{"status": "draining"})
		case !g.ready.check():
			operatorJSON(w, 503, map[string]string{"status": "unavailable", "store": "unreachable"})
		default:
			operatorJSON(w, 200, map[string]string{"status": "ready"})
		}
	})
	if g.opts.Profiling {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	}
	return &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      2 * time.Minute, // a profile takes its time
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
}

func operatorJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// readiness asks the store whether it is there, and remembers the answer for a second, so that probes cannot load it.
type readiness struct {
	store db.Store

	mu    sync.Mutex
	asked time.Time
	ok    bool
}

const (
	readyFor  = time.Second
	readyWait = time.Second
)

func (r *readiness) check() bool {
	if r.store == nil {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.asked.IsZero() && time.Since(r.asked) < readyFor {
		return r.ok
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyWait)
	defer cancel()
	r.ok = r.store.Ping(ctx) == nil
	r.asked = time.Now()
	return r.ok
}
