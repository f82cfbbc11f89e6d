package simulator

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// geminiModel is how a model thinks: by a budget of tokens, or at a level.
type geminiModel struct {
	id       string
	levels   string // it thinks at one of these levels; "": by a budget
	min, max int    // of the budget
	off      bool   // a budget of 0 is taken
	idle     bool   // it thinks only when told
}

// geminiModels are those listed, in the order of the list.
var geminiModels = []geminiModel{
	{id: "gemini-4-argon", levels: "low medium high"},
	{id: "gemini-4-carbon", levels: "low medium high"},
	{id: "gemini-4-hydrogen", levels: "low medium high xhigh"},
	{id: "gemini-3.8-flash", levels: "low medium high"},
	{id: "gemini-3.7-flash", levels: "low medium high"},
	{id: "gemini-3.6-flash", levels: "minimal low medium high"},
	{id: "gemini-3.5-flash", levels: "minimal low medium high"},
	{id: "gemini-3.5-flash-lite", levels: "minimal low medium high"},
	{id: "gemini-3.1-pro-preview", levels: "low medium high"},
	{id: "gemini-3.1-flash-lite", levels: "minimal low medium high"},
	{id: "gemini-3-flash-preview", levels: "minimal low medium high"},
	{id: "gemini-flash-latest", levels: "low medium high"},
	{id: "gemini-2.5-pro", min: 128, max: 32768},
	{id: "gemini-2.5-flash", max: 24576, off: true},
	{id: "gemini-2.5-flash-lite", min: 512, max: 24576, off: true, idle: true},
	{id: "gemini-embedding-001"},
	{id: "gemini-embedding-2"},
	{id: "sim-1", levels: "minimal low medium high"},
}

func (m *geminiModel) embeds() bool { return strings.HasPrefix(m.id, "gemini-embedding") }

// second reports whether the model is of the generation that thinks by budgets, and may leave signatures out.
func (m *geminiModel) second() bool { return m.levels == "" }

// geminiFamily names the models that read each other's signatures: those of one generation.
func geminiFamily(id string) string {
	if id == "gemini-flash-latest" {
		return "gemini-3"
	}
	if rest, ok := strings.CutPrefix(id, "gemini-"); ok && rest != "" {
		return "gemini-" + rest[:1]
	}
	return id
}

// geminiRequest is what the simulator understands of a request to Gemini.
type geminiRequest struct {
	chatRequest
	model        *geminiModel
	budget       gjson.Result
	level        gjson.Result
	thoughts     bool // are to be shown
	search       bool
	tier         string
	continuation string
	contents     gjson.Result
}

// invalid is a 400 of Google's.
func invalid(format string, args ...any) *failure {
	return &failure{status: 400, message: fmt.Sprintf(format, args...)}
}

// violated is a 400 that lists what of the request could not be read.
func violated(list []violation) *failure {
	var texts []string
	details := []byte(`[{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[`)
	for i, v := range list {
		if i > 0 {
			details = append(details, ',')
		}
		texts = append(texts, v.description)
		details = append(details, '{')
		if v.field != "" {
			details = append(quote(append(details, `"field":`...), v.field), ',')
		}
		details = append(quote(append(details, `"description":`...), v.description), '}')
	}
	return &failure{status: 400, message: strings.Join(texts, "\n"), meta: string(append(details, "]}]"...))}
}

// maxInline is how large a request may be, media included.
const maxInline = 20 << 20

// readGemini reads and checks a request as far as no model is concerned.
func readGemini(body []byte, message string) (*geminiRequest, *failure) {
	switch {
	case len(body) > maxInline:
		return nil, invalid("Request payload size exceeds the limit: %d bytes.", maxInline)
	case !utf8.Valid(body) || !gjson.ValidBytes(body):
		return nil, invalid("Invalid JSON payload received. Expected a value.\n%s\n^", clip(strings.ToValidUTF8(string(body), "?"), 40))
	}
	root := gjson.ParseBytes(body)
	if !root.IsObject() {
		return nil, invalid(`Invalid JSON payload received. Unknown name "": Root element must be a message.`)
	}
	if list := against(nil, root, message, ""); len(list) > 0 {
		return nil, violated(list)
	}
	if message == "CountTokensRequest" && get(root, "generateContentRequest").Exists() {
		root = get(root, "generateContentRequest")
	}
	q := &geminiRequest{tier: get(root, "serviceTier").Str, continuation: get(root, "continuationToken").Str, contents: get(root, "contents")}
	q.n, q.parallel, q.toolChoice = 1, true, "auto"
	for _, check := range []func(gjson.Result) *failure{q.generation, q.readTools, q.choice, q.turns} {
		if f := check(root); f != nil {
			return nil, f
		}
	}
	if q.continuation != "" {
		if _, err := bytesOf(q.continuation); err != nil {
			return nil, invalid("The continuation token is not valid.")
		}
	}
	return q, nil
}

// geminiLimits are the ranges of the generation config.
var geminiLimits = []struct {
	name      string
	low, high float64
	says      string
}{
	{"temperature", 0, 2, "temperature must be in the range [0.0, 2.0]."},
	{"topP", 0, 1, "top_p must be in the range [0.0, 1.0]."},
	{"topK", 1, 1 << 31, "top_k must be positive."},
	{"candidateCount", 1, 8, "candidate_count must be in the range [1, 8]."},
	{"maxOutputTokens", 1, 1 << 31, "max_output_tokens must be positive."},
	{"presencePenalty", -2, 2, "presence_penalty must be in the range [-2.0, 2.0)."},
	{"frequencyPenalty", -2, 2, "frequency_penalty must be in the range [-2.0, 2.0)."},
	{"logprobs", 0, 20, "logprobs must be in the range [0, 20]."},
}

// generation checks the generation config.
func (q *geminiRequest) generation(root gjson.Result) *failure {
	g := get(root, "generationConfig")
	for _, l := range geminiLimits {
		if v := get(g, l.name); v.Exists() && (v.Float() < l.low || v.Float() > l.high) {
			return invalid("* GenerateContentRequest.generation_config.%s: %s\n", snake(l.name), l.says)
		}
	}
	if n := get(g, "candidateCount"); n.Exists() {
		q.n = int(n.Int())
	}
	q.maxTokens = int(get(g, "maxOutputTokens").Int())
	if n := len(get(g, "stopSequences").Array()); n > 5 {
		return invalid("* GenerateContentRequest.generation_config.stop_sequences: at most 5 stop sequences are allowed, got %d.\n", n)
	}
	q.logprobs = get(g, "responseLogprobs").Bool()
	if get(g, "logprobs").Exists() && !q.logprobs {
		return invalid("Logprobs can only be set if response_logprobs is true.")
	}
	if f := q.form(g); f != nil {
		return f
	}
	t := get(g, "thinkingConfig")
	q.thoughts, q.budget, q.level = get(t, "includeThoughts").Bool(), get(t, "thinkingBudget"), get(t, "thinkingLevel")
	if q.budget.Exists() && q.level.Exists() {
		return invalid("You can only set only one of thinking budget and thinking level.")
	}
	return nil
}

// form checks what the answer is to look like.
func (q *geminiRequest) form(g gjson.Result) *failure {
	mime, typed, free := get(g, "responseMimeType").Str, get(g, "responseSchema"), get(g, "responseJsonSchema")
	switch mime {
	case "", "text/plain", "application/json", "text/x.enum":
	default:
		return invalid("* GenerateContentRequest.generation_config.response_mime_type: allowed mimetypes are `text/plain`, `application/json`, `application/xml`, `application/yaml` and `text/x.enum`.\n")
	}
	if typed.Exists() && free.Exists() {
		return invalid("Only one of response_schema and response_json_schema can be set.")
	}
	if (typed.Exists() || free.Exists()) && mime != "application/json" && mime != "text/x.enum" {
		return invalid("* GenerateContentRequest.generation_config.response_mime_type: a response schema needs `application/json`.\n")
	}
	if word := outside(free, "response_json_schema", 0); free.Exists() && word != "" {
		return invalid("The JSON schema is not supported: unknown keyword at generation_config.%s.", word)
	}
	switch {
	case typed.Exists():
		q.format, q.schema = "json_schema", typed
	case free.Exists():
		q.format, q.schema = "json_schema", free
	case mime == "application/json":
		q.format = "json_object"
	}
	return nil
}

var geminiName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}$`)

// readTools checks what the model may call.
func (q *geminiRequest) readTools(root gjson.Result) *failure {
	builtIn := false
	list := get(root, "tools")
	q.size += len(list.Raw)
	for i, t := range list.Array() {
		declared := get(t, "functionDeclarations")
		if !declared.Exists() && len(t.Map()) == 0 {
			return invalid("* GenerateContentRequest.tools[%d].tool_type: required one_of 'tool_type' must have one initialized field\n", i)
		}
		for _, name := range []string{"googleSearch", "urlContext", "codeExecution", "fileSearch", "googleMaps", "computerUse"} {
			builtIn = builtIn || get(t, name).Exists()
		}
		q.search = q.search || get(t, "googleSearch").Exists()
		for j, d := range declared.Array() {
			if f := q.declaration(d, fmt.Sprintf("tools[%d].function_declarations[%d]", i, j)); f != nil {
				return f
			}
		}
	}
	if len(q.tools) > 512 {
		return invalid("At most 512 function declarations can be specified.")
	}
	if builtIn && len(q.tools) > 0 && !get(root, "toolConfig", "includeServerSideToolInvocations").Bool() {
		return invalid("Please enable tool_config.include_server_side_tool_invocations to use Built-in tools with Function calling.")
	}
	return nil
}

// declaration checks one function.
func (q *geminiRequest) declaration(d gjson.Result, at string) *failure {
	name := get(d, "name").Str
	if !geminiName.MatchString(name) {
		return invalid("* GenerateContentRequest.%s.name: Invalid function name. Must start with a letter or an underscore. Must be alphameric "+
			"(a-z, A-Z, 0-9), underscores (_), dots (.), colons (:), or dashes (-), with a maximum length of 128.\n", at)
	}
	if slices.ContainsFunc(q.tools, func(t tool) bool { return t.name == name }) {
		return invalid("Duplicate function declaration found: %s", name)
	}
	typed, free := get(d, "parameters"), get(d, "parametersJsonSchema")
	if typed.Exists() && free.Exists() {
		return invalid("* GenerateContentRequest.%s: parameters and parameters_json_schema are mutually exclusive.\n", at)
	}
	if free.Exists() {
		if word := outside(free, "parameters_json_schema", 0); word != "" {
			return invalid("The JSON schema is not supported: unknown keyword at %s.%s.", at, word)
		}
		typed = free
	}
	q.tools = append(q.tools, tool{name: name, schema: typed})
	return nil
}

// choice checks the tool config.
func (q *geminiRequest) choice(root gjson.Result) *failure {
	c := get(root, "toolConfig", "functionCallingConfig")
	mode, allowed := get(c, "mode").Str, get(c, "allowedFunctionNames").Array()
	if mode != "ANY" && mode != "VALIDATED" && len(allowed) > 0 {
		return invalid("Please set allowed_function_names only when function calling mode is ANY.")
	}
	if mode == "ANY" && len(q.tools) == 0 {
		return invalid("Function calling config is set without function_declarations.")
	}
	if len(allowed) > 0 {
		var some []tool
		for _, name := range allowed {
			at := slices.IndexFunc(q.tools, func(t tool) bool { return t.name == name.Str })
			if at < 0 {
				return invalid("Allowed function name %s is not found in function_declarations.", name.Str)
			}
			some = append(some, q.tools[at])
		}
		q.tools = some
	}
	switch mode {
	case "NONE":
		q.toolChoice = "none"
	case "ANY":
		q.toolChoice = "required"
		if len(allowed) == 1 {
			q.toolChoice = "=" + allowed[0].Str
		}
	}
	return nil
}

// geminiCall is a function call that waits for its response.
type geminiCall struct{ id, name string }

// turns checks the conversation: roles, parts, and that calls and responses fit.
func (q *geminiRequest) turns(root gjson.Result) *failure {
	if s := get(root, "systemInstruction"); s.Exists() {
		q.messages++
		q.size += len(s.Raw)
		for j, p := range get(s, "parts").Array() {
			if f := geminiPart(p, fmt.Sprintf("system_instruction.parts[%d]", j)); f != nil {
				return f
			}
			if !get(p, "text").Exists() {
				return invalid("Only text is supported in system instructions. (system_instruction.parts[%d])", j)
			}
		}
	}
	list := q.contents.Array()
	if len(list) == 0 {
		return invalid("* GenerateContentRequest.contents: contents is not specified\n")
	}
	var open []geminiCall
	for i, c := range list {
		role, parts := get(c, "role").Str, get(c, "parts").Array()
		if role != "" && role != "user" && role != "model" {
			return invalid("Please use a valid role: user, model.")
		}
		if i == 0 && role == "model" {
			return invalid("Please ensure that the first content of the conversation has the role user.")
		}
		if len(parts) == 0 {
			return invalid("* GenerateContentRequest.contents[%d].parts: contents.parts must not be empty.\n", i)
		}
		q.size += len(c.Raw)
		t, f := readTurn(parts, i)
		if f == nil {
			f = t.follows(open, role == "model")
		}
		if f != nil {
			return f
		}
		open = t.calls
		q.messages += len(t.responses)
		if len(t.responses) == 0 || t.hasText {
			q.messages++
		}
		if role != "model" {
			q.results = t.responses
			if t.hasText {
				q.user, q.results = strings.Join(t.texts, "\n"), nil
			}
		}
	}
	if len(open) > 0 {
		return invalid(responsesOff)
	}
	return nil
}

const responsesOff = "Please ensure that the number of function response parts is equal to the number of function call parts of the function call turn."

// turn is one content of a conversation.
type turn struct {
	texts     []string
	hasText   bool // or media: something said, beside functions
	calls     []geminiCall
	answers   []geminiCall
	responses []string
}

func readTurn(parts []gjson.Result, i int) (t turn, f *failure) {
	for j, p := range parts {
		if f := geminiPart(p, fmt.Sprintf("contents[%d].parts[%d]", i, j)); f != nil {
			return t, f
		}
		switch call, response := get(p, "functionCall"), get(p, "functionResponse"); {
		case call.Exists():
			t.calls = append(t.calls, geminiCall{get(call, "id").Str, get(call, "name").Str})
		case response.Exists():
			t.answers = append(t.answers, geminiCall{get(response, "id").Str, get(response, "name").Str})
			t.responses = append(t.responses, told(get(response, "response")))
		default:
			t.hasText = true
			if text := get(p, "text"); text.Exists() && !get(p, "thought").Bool() {
				t.texts = append(t.texts, text.Str)
			}
		}
	}
	return t, nil
}

// told is what a function response says: its output or error, where it has that form, else all of it.
func told(v gjson.Result) string {
	for _, name := range []string{"output", "error"} {
		if one := v.Get(name); one.Exists() && len(v.Map()) == 1 {
			return one.String()
		}
	}
	return v.Raw
}

// follows checks that a turn answers the calls that are open, and calls only where it may.
func (t *turn) follows(open []geminiCall, model bool) *failure {
	switch {
	case model && len(t.answers) > 0 || !model && len(t.calls) > 0:
		return invalid("Please ensure that function calls have the role model and function responses the role user.")
	case len(t.answers) > 0 && len(open) == 0:
		return invalid("Please ensure that function response turn comes immediately after a function call turn.")
	case len(t.answers) != len(open):
		return invalid(responsesOff)
	}
	left := slices.Clone(open)
	for _, a := range t.answers {
		at := slices.IndexFunc(left, func(c geminiCall) bool { return c.name == a.name && c.id == a.id })
		if at < 0 {
			return invalid("Please ensure that each function response has the name and the id of a function call of the turn before it; %q has not.", a.name)
		}
		left = slices.Delete(left, at, at+1)
	}
	return nil
}

var partData = []string{
	"text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult", "toolCall",
	"toolResponse",
}

// geminiPart checks that a part holds one thing, and what that needs.
func geminiPart(p gjson.Result, at string) *failure {
	held := ""
	for _, name := range partData {
		v := get(p, name)
		if !v.Exists() {
			continue
		}
		if held != "" {
			return violated([]violation{{at, fmt.Sprintf("Invalid value at '%s' (oneof), oneof field 'data' is already set. Cannot set '%s'", at, name)}})
		}
		held = name
	}
	signed := get(p, "thoughtSignature").Str != ""
	if held == "" && !signed || held == "text" && get(p, "text").Str == "" && !signed {
		return invalid("* GenerateContentRequest.%s.data: required oneof field 'data' must have one initialized field\n", at)
	}
	switch v := get(p, held); held {
	case "functionCall", "functionResponse":
		if get(v, "name").Str == "" {
			return invalid("* GenerateContentRequest.%s.%s.name: Name cannot be empty.\n", at, snake(held))
		}
		if !geminiName.MatchString(get(v, "name").Str) {
			return invalid("* GenerateContentRequest.%s.%s.name: Invalid function name. Must start with a letter or an underscore.\n", at, snake(held))
		}
		for j, p := range get(v, "parts").Array() {
			if f := geminiPart(p, fmt.Sprintf("%s.function_response.parts[%d]", at, j)); f != nil {
				return f
			}
		}
		if held == "functionResponse" && !get(v, "response").Exists() {
			return invalid("* GenerateContentRequest.%s.function_response.response: required field is not set\n", at)
		}
	case "inlineData":
		if get(v, "mimeType").Str == "" || get(v, "data").Str == "" {
			return invalid("* GenerateContentRequest.%s.inline_data: mime_type and data are required.\n", at)
		}
		if mime := get(v, "mimeType").Str; mime == "image/svg+xml" || mime == "application/octet-stream" {
			return invalid("Unsupported MIME type: %s", mime)
		}
	case "fileData":
		if get(v, "fileUri").Str == "" {
			return invalid("* GenerateContentRequest.%s.file_data.file_uri: required field is not set\n", at)
		}
	}
	return nil
}

// suits refuses what the model does not take.
func (q *geminiRequest) suits(m *geminiModel, root gjson.Result) *failure {
	q.model, q.chatRequest.model = m, m.id
	g := get(root, "generationConfig")
	if f := q.thinks(m); f != nil {
		return f
	}
	if !m.second() {
		return q.signed(m)
	}
	switch {
	case get(g, "presencePenalty").Exists() || get(g, "frequencyPenalty").Exists():
		return invalid("Penalty is not enabled for models/%s", m.id)
	case len(q.tools) > 0 && q.format != "":
		return invalid("Function calling with a response mime type: 'application/json' is unsupported")
	case get(root, "toolConfig", "includeServerSideToolInvocations").Bool():
		return invalid("Tool use with function calling is unsupported by the model.")
	}
	for _, c := range q.contents.Array() {
		for _, p := range get(c, "parts").Array() {
			if get(p, "functionResponse", "parts").Exists() {
				return invalid("Multimodal function responses are not supported by the model.")
			}
		}
	}
	return q.signed(m)
}

// thinks checks the thinking config.
func (q *geminiRequest) thinks(m *geminiModel) *failure {
	if q.level.Exists() {
		if m.second() {
			return invalid("Thinking level is not supported for this model.")
		}
		if level := strings.ToLower(q.level.Str); !slices.Contains(strings.Fields(m.levels), level) {
			return invalid("Thinking level %s is not supported for this model. Please retry with other thinking level.", strings.ToUpper(level))
		}
	}
	if !q.budget.Exists() {
		return nil
	}
	b := int(q.budget.Int())
	switch {
	case strings.HasPrefix(m.id, "gemini-4"):
		return invalid("Thinking budget is not supported for this model. Please use thinking level.")
	case b == 0 && !m.off:
		return invalid("Budget 0 is invalid. This model only works in thinking mode.")
	case m.second() && b != -1 && b != 0 && (b < m.min || b > m.max) || b < -1:
		return invalid("The thinking budget %d is invalid. Please choose a value between %d and %d.", b, m.min, m.max)
	}
	return nil
}

// thinking reports whether the model thinks on this request.
func (q *geminiRequest) thinking() bool {
	if q.budget.Exists() {
		return q.budget.Int() != 0
	}
	return !q.model.idle
}

// placeholders may stand where a signature is missing because another made the call.
var placeholders = set("skip_thought_signature_validator", "context_engineering_is_the_way_to_go")

// googleSign is how Google's signatures begin; ours go on with signMark and say what they were given for.
const (
	googleSign = "\x12\x90\x02"
	signMark   = "sim|"
)

// sign is a signature that tells the family of the model and what was signed: a call, or a text.
func sign(model, what string) string {
	return encode64([]byte(googleSign + signMark + geminiFamily(model) + "|" + what))
}

// signedCall names a call for its signature.
func signedCall(name, args string) string {
	if args == "" {
		args = "{}"
	}
	var v any
	if json.Unmarshal([]byte(args), &v) == nil { // one form, whoever wrote it
		if b, err := json.Marshal(v); err == nil {
			args = string(b)
		}
	}
	return "call|" + name + "|" + KeyHash(args)[:12]
}

const signedText = "text"

// signed checks the signatures that came back. The current turn begins after the last text of a user; in it, the first
// call of each content must have one, for those models that want it.
func (q *geminiRequest) signed(m *geminiModel) *failure {
	current := 0
	list := q.contents.Array()
	for i, c := range list {
		for _, p := range get(c, "parts").Array() {
			if get(c, "role").Str != "model" && !get(p, "functionResponse").Exists() {
				current = i
			}
		}
	}
	for i, c := range list {
		first := true
		for j, p := range get(c, "parts").Array() {
			call, signature := get(p, "functionCall"), get(p, "thoughtSignature").Str
			if call.Exists() && first {
				first = false
				if signature == "" && i > current && !m.second() {
					return invalid("Function call is missing a thought_signature in functionCall parts. This is required for tools to work correctly.")
				}
			}
			if signature != "" && !q.signature(signature, call) {
				return invalid("Thought signature is not valid. (contents[%d].parts[%d])", i, j)
			}
		}
	}
	return nil
}

// signature reports whether the model takes a signature: Google's own, and of ours those of its family for that call.
func (q *geminiRequest) signature(s string, call gjson.Result) bool {
	if placeholders[s] {
		return !q.model.second()
	}
	b, err := bytesOf(s)
	if err != nil {
		return false
	}
	rest, ok := strings.CutPrefix(string(b), googleSign)
	if !ok {
		return false
	}
	if rest, ok = strings.CutPrefix(rest, signMark); !ok {
		return true
	}
	family, what, _ := strings.Cut(rest, "|")
	want := signedText
	if call.Exists() {
		want = signedCall(get(call, "name").Str, get(call, "args").Raw)
	}
	return family == geminiFamily(q.model.id) && what == want
}

// continued is where a token says to go on: how much of the text was said. Tokens of Google's own begin again.
func (q *geminiRequest) continued() (int, *failure) {
	b, err := bytesOf(q.continuation)
	if err != nil {
		return 0, invalid("The continuation token is not valid.")
	}
	rest, ok := strings.CutPrefix(string(b), signMark)
	if !ok {
		return 0, nil
	}
	at, of, _ := strings.Cut(rest, "|")
	n, err := strconv.Atoi(at)
	if err != nil || of != q.fingerprint() {
		return 0, invalid("The continuation token does not belong to this request.")
	}
	return n, nil
}

func (q *geminiRequest) token(at int) string {
	return encode64([]byte(signMark + strconv.Itoa(at) + "|" + q.fingerprint()))
}

// fingerprint tells one conversation from another.
func (q *geminiRequest) fingerprint() string { return KeyHash(q.contents.Raw)[:24] }
