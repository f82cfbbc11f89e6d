package openrouter

// What benchmarks measure alone.
var (
	RequireParameters = requireParameters
	RepeatReasoning   = repeatReasoning
)
