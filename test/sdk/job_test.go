package sdk

import "encoding/json"

// job is one thing an SDK is asked to do: the same words for each of them, so that a case is written once.
type job struct {
	N       int64  `json:"n"` // names the job between us and the Node process
	Do      string `json:"do"`
	BaseURL string `json:"base_url"`
	Key     string `json:"key"`

	Model        string            `json:"model"`
	Messages     []message         `json:"messages"`
	Header       map[string]string `json:"header,omitempty"` // by the SDK's option for more headers
	Temperature  *float64          `json:"temperature,omitempty"`
	IncludeUsage bool              `json:"include_usage,omitempty"`
	Schema       json.RawMessage   `json:"schema,omitempty"`      // of the structured output
	Thin         bool              `json:"thin,omitempty"`        // tools: send the results alone, without what went before
	TimeoutMS    int               `json:"timeout_ms,omitempty"`  // the SDK's own option; 0: its default
	DeadlineMS   int               `json:"deadline_ms,omitempty"` // the caller's own: a context, an abort signal
	MaxRetries   *int              `json:"max_retries,omitempty"` // nil: the SDK's default, 2
	RetryDelayMS int               `json:"-"`                     // the longest pause before a retry, where the SDK has an option for it: Go's; 0: its default
}

// What jobs do.
const (
	doChat        = "chat"         // one answer, whole
	doStream      = "stream"       // one answer, streamed
	doParse       = "parse"        // one answer by the schema, whole, through the SDK's parser where it has one
	doTools       = "tools"        // tool calls and their results, whole answers, until there is a final one
	doToolsStream = "tools_stream" // the same, streamed, put together by the SDK's own accumulator
)

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// result is what the SDK's caller saw.
type result struct {
	N         int64             `json:"n"`
	Text      string            `json:"text"`
	Finish    string            `json:"finish"`
	Model     string            `json:"model"`
	RequestID string            `json:"request_id"` // as the SDK or its raw answer tells it
	Header    map[string]string `json:"header"`     // of the answer, names in lower case
	Usage     *usage            `json:"usage"`      // of a stream: the last chunk that had one
	Usages    int               `json:"usages"`     // how many chunks of a stream had one
	Parsed    json.RawMessage   `json:"parsed"`
	Calls     []toolCall        `json:"calls"`
	Err       *sdkError         `json:"err"` // what the SDK raised; Text is what came before it
}

type usage struct {
	Prompt     int64  `json:"prompt_tokens"`
	Completion int64  `json:"completion_tokens"`
	Total      int64  `json:"total_tokens"`
	CostUSD    string `json:"cost_usd"`    // ours
	CostStatus string `json:"cost_status"` // ours
}

// toolCall is a call the model made, its arguments parsed by the caller, and what it was answered.
type toolCall struct {
	ID     string          `json:"id"`
	Name   string          `json:"name"`
	Args   json.RawMessage `json:"args"`
	Result string          `json:"result"`
}

// sdkError is an error as the SDK raised it.
type sdkError struct {
	Class   string `json:"class"` // one of those below; Node's own names
	Status  int    `json:"status"`
	Type    string `json:"type"`
	Param   string `json:"param"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Classes of errors. Go's SDK has one type for all answers with an error's status, so that there the status decides.
const (
	badRequest     = "BadRequestError"
	authentication = "AuthenticationError"
	notFound       = "NotFoundError"
	serverError    = "InternalServerError"
	inStream       = "APIError" // an error event in a stream
	timedOut       = "APIConnectionTimeoutError"
	deadline       = "deadline" // the caller's own
)

// sdk is a client library that does jobs. Safe for concurrent use.
type sdk interface {
	do(j job) (result, error) // the error is ours, not the SDK's
}

// weather is the tool of the tools cases.
const (
	weatherName   = "get_weather"
	weatherSchema = `{"type":"object","properties":{"city":{"type":"string"}},"required":["city"],"additionalProperties":false}`
)

// weatherIn is what the tool answers, in both languages.
func weatherIn(city string) string { return "21 degrees in " + city }
