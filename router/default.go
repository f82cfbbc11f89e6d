package router

import (
	_ "embed"
	"encoding/json"
	"fmt"
)

//go:embed default.json
var defaultRules []byte

// DefaultPolicy is what holds for an org that has written no rules.
func DefaultPolicy() (*Policy, error) {
	var r Rules
	if err := json.Unmarshal(defaultRules, &r); err != nil {
		return nil, fmt.Errorf("router: the default rules: %w", err)
	}
	return Compile(r)
}
