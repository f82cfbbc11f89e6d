package gateway

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"threadhub/calls"
	"threadhub/internal/contain"
	"threadhub/internal/fault"
	"threadhub/router/failover"
)

// metrics are the gateway's own. Every label takes its values from a list in the source: nothing a client, an org or a
// provider sends becomes one.
type metrics struct {
	requests     *prometheus.CounterVec   // route, status, outcome
	seconds      *prometheus.HistogramVec // route
	inflight     prometheus.Gauge
	connections  prometheus.Gauge
	refused      *prometheus.CounterVec // code
	acceptErrors prometheus.Counter
	streamEnds   *prometheus.CounterVec // reason
	attempts     *prometheus.CounterVec // provider, result
	furthers     *prometheus.CounterVec // provider, how
	unasked      *prometheus.CounterVec // provider
	cooldowns    *prometheus.CounterVec // provider
	opened       *prometheus.CounterVec // provider
	drainSeconds prometheus.Gauge
	load         gatewayLoad
	budget       budgetMetrics
}

// gatewayLoad tells of overload.
type gatewayLoad struct {
	stage   prometheus.Gauge
	refused *prometheus.CounterVec // why
	ended   prometheus.Counter
}

func newGatewayLoad() gatewayLoad {
	return gatewayLoad{
		stage: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "threadhub_overload_stage", Help: "How near its limit memory is: 0, or 1 at 85 %, 2 at 92 %, 3 at 97 %.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "threadhub_overload_refused_total", Help: "Calls refused: memory, heavy (an org that holds much of it), calls (too many), share (an org's).",
		}, []string{"why"}),
		ended: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "threadhub_overload_ended_total", Help: "Streams ended because of the memory they held.",
		}),
	}
}

func newMetrics(reg prometheus.Registerer, sink *LogSink, caught *contain.Panics, ready *readiness) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "threadhub_requests_total", Help: "Requests answered, by route, class of status and outcome.",
		}, []string{"route", "status", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "threadhub_request_seconds", Help: "From a request's arrival to the end of its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}, []string{"route"}),
		inflight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "threadhub_requests_inflight", Help: "Requests begun and not ended, streams among them.",
		}),
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "threadhub_connections_open", Help: "Open public connections.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "threadhub_refused_total", Help: "Requests refused before they had a handler, by code.",
		}, []string{"code"}),
		acceptErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "threadhub_accept_emfile_total", Help: "Connections that could not be accepted, mostly for want of file descriptors.",
		}),
		streamEnds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "threadhub_stream_end_total", Help: "Calls ended, streamed or whole, by reason.",
		}, []string{"reason"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "threadhub_attempts_total", Help: "Requests to providers that ended: ok, failed (nothing came), cut (not all came).",
		}, []string{"provider", "result"}),
		furthers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "threadhub_further_attempts_total", Help: "Attempts after a call's first: retry (the same again), fresh (on a new connection, as the kept one was stale), key (another key), target (another target).",
		}, []string{"provider", "how"}),
		unasked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "threadhub_retries_refused_total", Help: "Retries that were not made, as there had been too many.",
		}, []string{"provider"}),
		cooldowns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "threadhub_cooldowns_total", Help: "Times a key or a target of a provider was left alone for a while.",
		}, []string{"provider"}),
		opened: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "threadhub_breaker_opened_total", Help: "Times the breaker of a key at a provider opened, as half of what it was asked had failed.",
		}, []string{"provider"}),
		drainSeconds: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "threadhub_drain_seconds", Help: "How long the drain took.",
		}),
		load: newGatewayLoad(),
	}
	dropped := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "threadhub_log_dropped_total", Help: "Log lines lost because the log was too slow or full.",
	}, func() float64 {
		if sink == nil {
			return 0
		}
		return float64(sink.Dropped())
	})
	panics := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "threadhub_panics_total", Help: "Panics caught, anywhere in the process. Each is a bug.",
	}, func() float64 { return float64(caught.Caught()) })
	up := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "threadhub_store_up", Help: "Whether the store answers.",
	}, func() float64 {
		if ready.check() {
			return 1
		}
		return 0
	})
	reg.MustRegister(m.requests, m.seconds, m.inflight, m.connections, m.refused, m.acceptErrors, panics, m.streamEnds,
		m.attempts, m.furthers, m.unasked, m.cooldowns, m.opened, m.drainSeconds, m.load.stage, m.load.refused, m.load.ended, dropped, up)
	return m
}

func (m *metrics) answered(l *logLine, took time.Duration) {
	outcome := "ok"
	if l.fault != nil {
		outcome = outcomeOf(l.fault.Kind)
	}
	m.requests.WithLabelValues(l.route, statusClass(l.status), outcome).Inc()
	m.seconds.WithLabelValues(l.route).Observe(took.Seconds())
}

// ended counts a call that was recorded, streamed or whole, and its attempt at a provider: the router's, so one of a few.
func (m *metrics) ended(provider string, end ending) {
	code := end.code
	if end.outcome == calls.Complete {
		code = "done"
	}
	m.streamEnds.WithLabelValues(streamEnd(code)).Inc()
	m.attempts.WithLabelValues(provider, string(end.state)).Inc()
}

// health counts what the end of an attempt has done to whom it asked.
func (m *metrics) health(provider string, s failover.Step) {
	if s.Cooled {
		m.cooldowns.WithLabelValues(provider).Inc()
	}
	if s.Opened {
		m.opened.WithLabelValues(provider).Inc()
	}
	if s.Spent {
		m.unasked.WithLabelValues(provider).Inc()
	}
}

// further counts an attempt that follows another.
func (m *metrics) further(provider string, how failover.How) {
	m.furthers.WithLabelValues(provider, how.String()).Inc()
}

func statusClass(status int) string {
	if status < 100 || status > 599 {
		return "other"
	}
	return strconv.Itoa(status/100) + "xx"
}

var outcomes = map[fault.Kind]string{
	fault.Internal: "internal", fault.Invalid: "invalid", fault.Unauthorized: "unauthorized", fault.Payment: "budget",
	fault.Denied: "denied", fault.NotFound: "not_found", fault.Method: "method", fault.Slow: "slow",
	fault.Conflict: "conflict", fault.TooLarge: "too_large", fault.MediaType: "media_type", fault.Reused: "reused",
	fault.RateLimited: "rate_limited", fault.Upstream: "upstream", fault.Unavailable: "unavailable", fault.Timeout: "timeout",
}

func outcomeOf(k fault.Kind) string {
	if o, ok := outcomes[k]; ok {
		return o
	}
	return "other"
}

// streamReasons are the ways a stream ends that are counted by name.
var streamReasons = map[string]bool{
	"done": true, "client_closed": true, "client_slow": true, "draining": true, "overloaded": true, "deadline": true, "lost_lease": true,
	"storage_unavailable": true, "storage_full": true, "tenant_context": true, "busy": true, "internal_error": true, "upstream_truncated": true, "upstream_reset": true,
	"upstream_stalled": true, "upstream_protocol": true, "upstream_oversize": true, "upstream_error": true,
	"upstream_timeout": true, "rate_limit_exceeded": true,
	codeShut: true,
}

func streamEnd(reason string) string {
	if streamReasons[reason] {
		return reason
	}
	return "other"
}
