package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"

	"threadhub/config"
	"threadhub/internal/id"
	"threadhub/orgs"
)

// auditHead is what verify prints of one org's log. Kept where the store's operator cannot reach it, a head shows later
// that the log still holds all it held.
type auditHead struct {
	Org   id.Org `json:"org_id"`
	OK    bool   `json:"ok"`
	Lines int64  `json:"lines"` // as they were written, from the first on
	Head  string `json:"head"`  // the hash of the last of them
	Bad   *int64 `json:"bad_line,omitempty"`
	Why   string `json:"why,omitempty"`
}

func auditVerifyCommand(fs *flag.FlagSet) func(context.Context, *program, *config.Config) error {
	org := fs.String("org", "", "`id` of the org; empty: all")
	asJSON := fs.Bool("json", false, "print one line of JSON: ok, orgs, lines, heads")
	return func(ctx context.Context, p *program, cfg *config.Config) (err error) {
		s, err := openStorage(ctx, cfg, p.log(cfg), false)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.Close()) }()
		list := []id.Org{id.Org(*org)}
		if *org == "" {
			if list, err = s.orgs.All(ctx); err != nil {
				return err
			}
		}
		heads := []auditHead{}
		var lines int64
		broken := 0
		for _, org := range list {
			r, err := s.orgs.VerifyAudit(ctx, org)
			if err != nil {
				return fmt.Errorf("the log of %s: %w", org, err)
			}
			heads = append(heads, headOf(r))
			lines += r.Lines
			if !r.OK() {
				broken++
			}
		}
		if *asJSON {
			err = p.printJSON(map[string]any{"ok": broken == 0, "orgs": len(list), "lines": lines, "heads": heads})
		} else {
			err = p.printHeads(heads)
		}
		if broken > 0 {
			err = errors.Join(err, fmt.Errorf("the audit log of %d of %d orgs is not as it was written", broken, len(list)))
		}
		return err
	}
}

func headOf(r orgs.AuditReport) auditHead {
	h := auditHead{Org: r.Org, OK: r.OK(), Lines: r.Lines, Head: hex.EncodeToString(r.Head), Why: r.Why}
	if !r.OK() {
		h.Bad = &r.Bad
	}
	return h
}

func (p *program) printHeads(heads []auditHead) error {
	for _, h := range heads {
		state := "ok"
		if !h.OK {
			state = fmt.Sprintf("BROKEN at line %d: %s", *h.Bad, h.Why)
		}
		if _, err := fmt.Fprintf(p.stdout, "%-40s %8d lines  %.16s  %s\n", h.Org, h.Lines, h.Head, state); err != nil {
			return err
		}
	}
	return nil
}
