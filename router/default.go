package router

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"sync"
)

//go:embed default.json
var defaultRules []byte

// DefaultPolicy is what holds for an org that has written no rules. It is compiled once.
var DefaultPolicy = sync.OnceValues(func() (*Policy, error) {
	var r Rules
	if err := json.Unmarshal(defaultRules, &r); err != nil {
		return nil, fmt.Errorf("router: the default rules: %w", err)
	}
	return Compile(r)
})
