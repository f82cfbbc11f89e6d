package main

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"threadhub/config"
	"threadhub/orgs"
)

func seedCommand(fs *flag.FlagSet) func(context.Context, *program, *config.Config) error {
	org := fs.String("org", "", "`name` of the org")
	email := fs.String("user", "", "`email` of the user")
	role := fs.String("role", "", "admin, member or viewer; empty: as it is, and member for a new user")
	tier := fs.String("tier", "", "tier of the org; empty: as it is, and trial for a new org")
	seats := fs.Int("seats", 0, "most users of the org; 0: as it is, and 10 for a new org")
	asJSON := fs.Bool("json", false, "print one line of JSON: org_id, user_id, api_key")
	return func(ctx context.Context, p *program, cfg *config.Config) (err error) {
		switch {
		case *org == "":
			return usageError("--org is needed: the name of the org")
		case *email == "":
			return usageError("--user is needed: the email address of the user")
		}
		s, err := openStorage(ctx, cfg, p.log(cfg), false)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.Close()) }()
		seeded, err := s.orgs.Seed(ctx, orgs.SeedSpec{Org: *org, Email: *email, Role: orgs.Role(*role), Tier: *tier, Seats: *seats})
		if err != nil {
			return err
		}
		if *asJSON {
			return p.printJSON(map[string]string{
				"org_id": string(seeded.Org), "user_id": string(seeded.User), "api_key": seeded.APIKey.Reveal(),
			})
		}
		_, err = fmt.Fprintf(p.stdout, "org      %s (%s)\nuser     %s (%s)\nAPI key  %s\n\nThe key is shown this once; keep it where secrets are kept.\n",
			seeded.Org, had(seeded.NewOrg), seeded.User, hadUser(seeded), seeded.APIKey.Reveal())
		return err
	}
}

func hadUser(s orgs.Seeded) string {
	if s.RoleWas != "" {
		return "was there, as " + string(s.RoleWas) + " until now"
	}
	return had(s.NewUser)
}

func had(made bool) string {
	if made {
		return "new"
	}
	return "was there"
}
