package main

import (
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"threadhub/config"
)

func newReloadFailures() prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{
		Name: "threadhub_config_reload_failed_total", Help: "Reloads of the settings that were refused; the old settings stayed.",
	})
}

// reload reads the settings again, on SIGHUP. What can change while calls run is put in force: the level of the log. A
// file with a problem changes nothing. All other settings wait for the next start, and the log says which.
func (p *program) reload(s *server) {
	cfg, err := p.load()
	if err != nil {
		s.reloadFailures.Inc()
		s.log.Error("the settings were not reloaded, the old ones stay", "error", err)
		return
	}
	setLevel(s.level, cfg)
	waiting := slices.DeleteFunc(config.Changed(s.cfg, cfg), func(path string) bool { return path == "log.level" })
	s.log.Info("the settings were reloaded", "log_level", cfg.Log.Level, "wait_for_restart", strings.Join(waiting, ", "))
}
