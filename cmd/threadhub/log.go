package main

import (
	"io"
	"log/slog"

	"threadhub/config"
)

// newLog returns a log in the operator's form and the level it can be moved to while it runs.
func newLog(out io.Writer, cfg *config.Config) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	setLevel(level, cfg)
	o := &slog.HandlerOptions{Level: level}
	if cfg.Log.Format == "text" {
		return slog.New(slog.NewTextHandler(out, o)), level
	}
	return slog.New(slog.NewJSONHandler(out, o)), level
}

func setLevel(level *slog.LevelVar, cfg *config.Config) {
	var l slog.Level
	if l.UnmarshalText([]byte(cfg.Log.Level)) == nil { // config took the name already
		level.Set(l)
	}
}

// log is for commands that do one thing and end: only what went wrong is of interest.
func (p *program) log(cfg *config.Config) *slog.Logger {
	log, level := newLog(p.stderr, cfg)
	level.Set(max(level.Level(), slog.LevelWarn))
	return log
}
