package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"threadhub/config"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"threadhub": main}) }

// Each script runs the real main in an empty folder with an empty environment, and holds what an operator sees.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

func defaults(t *testing.T) *config.Config {
	t.Helper()
	c, err := config.Load(config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
