package gateway

import "github.com/prometheus/client_golang/prometheus"

// budgetMetrics tell what budgets do to calls.
type budgetMetrics struct {
	refused *prometheus.CounterVec // scope
	near    *prometheus.CounterVec // mode, percent
	lowered prometheus.Counter
}

// budgetMetrics registers them, and what the check of budgets found.
func (g *Gateway) budgetMetrics(reg prometheus.Registerer) {
	m := &g.metrics.budget
	m.refused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "threadhub_budget_refused_total", Help: "Budgets that had no room for a call, or for a further attempt of one, by what they are for.",
	}, []string{"scope"})
	m.near = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "threadhub_budget_near_total", Help: "Warnings that a budget is used up to that percentage, by its mode.",
	}, []string{"mode", "percent"})
	m.lowered = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "threadhub_budget_lowered_total", Help: "Calls whose answer was made shorter to fit into a budget.",
	})
	drift := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "threadhub_budget_drift_total", Help: "Budgets that did not stand where the ledger and the open calls put them, and were put right. Each is a bug.",
	}, func() float64 {
		if g.opts.Budgets == nil {
			return 0
		}
		return float64(g.opts.Budgets.Drifts())
	})
	reg.MustRegister(m.refused, m.near, m.lowered, drift)
}
