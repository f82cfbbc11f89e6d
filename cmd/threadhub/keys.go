package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"

	"threadhub/config"
	"threadhub/internal/id"
	"threadhub/orgs"
)

func keysCreateCommand(fs *flag.FlagSet) func(context.Context, *program, *config.Config) error {
	org := fs.String("org", "", "`id` of the org, as seed prints it")
	user := fs.String("user", "", "email address or `id` of the user")
	name := fs.String("name", "", "what the key is for")
	expires := fs.String("expires", "", "`when` it ends: a time like 2027-01-31T12:00:00Z, or a duration from now like 720h; empty: never")
	readOnly := fs.Bool("read-only", false, "for reading alone, whatever the user's role")
	models := fs.String("models", "", "`patterns` of the models it is for, commas between, like openai/*,gpt-5*; empty: all")
	providers := fs.String("providers", "", "`names` of the providers it is for, commas between; empty: all")
	asJSON := fs.Bool("json", false, "print one line of JSON: org_id, user_id, key_id, api_key")
	return func(ctx context.Context, p *program, cfg *config.Config) (err error) {
		switch {
		case *org == "":
			return usageError("--org is needed: the id of the org")
		case *user == "":
			return usageError("--user is needed: the email address or the id of the user")
		}
		end, err := when(*expires, time.Now())
		if err != nil {
			return err
		}
		spec := orgs.KeySpec{Name: *name, Expires: end, ReadOnly: *readOnly, Models: list(*models), Providers: list(*providers)}
		for _, p := range spec.Providers {
			if !slices.Contains(config.Providers(), p) {
				return usageError("--providers may be " + strings.Join(config.Providers(), ", "))
			}
		}
		s, err := openStorage(ctx, cfg, p.log(cfg), false)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.Close()) }()
		if spec.User, err = s.orgs.FindUser(ctx, id.Org(*org), *user); err != nil {
			return err
		}
		key, info, err := s.orgs.CreateKey(ctx, id.Org(*org), orgs.Actor{}, spec)
		if err != nil {
			return err
		}
		if *asJSON {
			return p.printJSON(map[string]string{"org_id": *org, "user_id": string(spec.User), "key_id": string(info.ID), "api_key": key.Reveal()})
		}
		_, err = fmt.Fprintf(p.stdout, "API key  %s\n\nThe key is shown this once; keep it where secrets are kept.\n", key.Reveal())
		return err
	}
}

// list reads words with commas between. Empty is none.
func list(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// when reads a point in time, absolute or from now on. Empty is the zero time.
func when(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return now.Add(d), nil
	}
	return time.Time{}, usageError("--expires must be a time like 2027-01-31T12:00:00Z or a duration like 720h")
}

func keysRotateCommand(fs *flag.FlagSet) func(context.Context, *program, *config.Config) error {
	asJSON := fs.Bool("json", false, "print one line of JSON: orgs, provider_keys, failed")
	return func(ctx context.Context, p *program, cfg *config.Config) (err error) {
		s, err := openStorage(ctx, cfg, p.log(cfg), false)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.Close()) }()
		report, err := s.orgs.Rotate(ctx, nil)
		if *asJSON {
			return errors.Join(err, p.printJSON(map[string]any{
				"orgs": report.Orgs, "provider_keys": report.ProviderKeys, "failed": append([]id.Org{}, report.Failed...),
			}))
		}
		_, printErr := fmt.Fprintf(p.stdout, "orgs with a new data key: %d; provider keys sealed anew: %d; failed: %d\n",
			report.Orgs, report.ProviderKeys, len(report.Failed))
		return errors.Join(err, printErr)
	}
}
