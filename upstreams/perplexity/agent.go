package perplexity

import (
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"threadhub/upstreams"
)

// agentPath is one of two names for the same thing (the other is v1/agent). It is the one that Perplexity's own refusals
// of the older API send clients to.
const agentPath = "v1/responses"

// presets are what became of the models of the older API. A preset brings a prompt, the search and the steps, but may
// choose another vendor's model, so the model is named beside it.
var presets = map[string]string{
	"sonar":               "fast",
	sonarModel:            "fast",
	"sonar-pro":           "low",
	"sonar-reasoning":     "medium",
	"sonar-reasoning-pro": "medium",
	"sonar-deep-research": "high",
}

const (
	sonarModel   = "perplexity/sonar"
	googleVendor = "google/" // what the names of Google's models begin with
)

// anthropicTokens is the answer's limit for models that must be given one.
const anthropicTokens = "8192"

// family names the models that understand each other's signatures of thoughts: those of one vendor and, of Google's, of
// one generation ("google/gemini-3").
func family(model string) string {
	vendor, name, found := strings.Cut(model, "/")
	switch {
	case !found:
		return "perplexity"
	case vendor == "google":
		return vendor + "/" + upstreams.GoogleFamily(name)
	}
	return vendor
}

// agent is a request on its way into the Agent API.
type agent struct {
	*chat
	out          []byte
	instructions []byte   // the body of a string
	functions    []string // names the model may call
	google       string   // the family of one of Google's models, which sign their calls; "" for others
	made         string   // id of the last call of older clients, which have none

	open  upstreams.Calls
	ids   map[string]string // what calls are named, by the ids that messages have for them
	taken map[string]bool   // those names

	signatures upstreams.Signatures

	forced [2]int // where in out a Sonar model is made to search; zero: nowhere
}

// translateAgent puts r into the words of the Agent API. search is the tool_choice that makes a Sonar model search.
func translateAgent(r *upstreams.Request, search string) (upstreams.Words, error) {
	a := &agent{chat: read(r), ids: map[string]string{}, taken: map[string]bool{}, signatures: r.Signatures}
	a.signatures.Unknown = nil
	a.out = append(make([]byte, 0, len(r.Body)+512), '{')
	preset, sonar := presets[a.model]
	off := a.take("disable_search") == "true"
	if name, ok := strings.CutPrefix(a.model, googleVendor); ok {
		a.google = upstreams.GoogleFamily(name)
	}
	model := a.model
	if sonar {
		model = sonarModel
	}
	if sonar && !off { // without a preset nothing searches
		a.out = append(append(member(a.out, "preset"), '"'), preset+`"`...)
	}
	a.out = quoted(member(a.out, "model"), model)
	err := a.input()
	if r.Signatures = a.signatures; err != nil {
		return nil, err
	}
	a.limits(model)
	if err := a.format(); err != nil {
		return nil, err
	}
	if err := a.tools(sonar && !off, off, search); err != nil {
		return nil, err
	}
	for _, name := range []string{"max_steps", "max_tool_calls", "language_preference"} { // its own
		a.out = raw(a.out, name, a.take(name))
	}
	a.out = raw(a.out, "store", "false")
	a.out = raw(a.out, "stream", strconv.FormatBool(r.Stream))
	if err := a.rest(); err != nil {
		return nil, err
	}
	return &agentWords{
		request: append(a.out, '}'), warnings: a.lost.Warnings, functions: a.functions, model: a.model, searches: sonar && !off,
		forced: a.forced,
	}, nil
}

// limits are the numbers.
func (a *agent) limits(model string) {
	tokens := a.takeTokens()
	if tokens == "" && strings.HasPrefix(model, "anthropic/") {
		tokens = anthropicTokens
	}
	a.out = raw(a.out, "max_output_tokens", tokens)
	a.out = raw(a.out, "temperature", a.take("temperature"))
	a.out = raw(a.out, "top_p", a.take("top_p"))
	switch effort := a.take("reasoning_effort"); effort {
	case "":
	case `"none"`:
		a.dropped("reasoning_effort", unsupported)
	case `"max"`:
		a.out = raw(a.out, "reasoning", `{"effort":"xhigh"}`)
	default:
		a.out = append(append(append(member(a.out, "reasoning"), `{"effort":`...), effort...), '}')
	}
}

// format is the shape of the answer. The nesting is that of chat, but a name must be there.
func (a *agent) format() error {
	value := a.take("response_format")
	f := gjson.Parse(value)
	switch kind := f.Get("type").Str; {
	case value == "" || kind == "text":
		return nil
	case kind != "json_schema":
		return a.cannot("response_format", "perplexity takes a response_format of type json_schema only, not %q", clean(kind))
	}
	schema := f.Get("json_schema")
	if schema.Get("name").Str != "" || !schema.IsObject() {
		a.out = raw(a.out, "response_format", value)
		return nil
	}
	a.out = append(member(a.out, "response_format"), `{"type":"json_schema","json_schema":{"name":"response"`...)
	for key, v := range members(schema) {
		if key.Str != "name" {
			a.out = append(append(append(append(a.out, ','), key.Raw...), ':'), v.Raw...)
		}
	}
	a.out = append(a.out, "}}"...)
	return nil
}

// filters narrow a search.
var filters = [...]string{
	"search_domain_filter", "search_recency_filter", "search_after_date_filter", "search_before_date_filter",
	"last_updated_after_filter", "last_updated_before_filter",
}

// tools are the search, where there is one, and the client's functions.
func (a *agent) tools(sonar, off bool, search string) error {
	from := len(a.out)
	a.out = append(member(a.out, "tools"), '[')
	empty := len(a.out)
	if web := a.webSearch(sonar, off); web != nil {
		a.out = append(comma(a.out), web...)
	}
	choice := a.take("tool_choice")
	if older := a.take("function_call"); older != "" && older != `"auto"` && older != `"none"` {
		if err := a.cannot("function_call", "functions are given as tools here"); err != nil {
			return err
		}
	}
	// none says that no function is to be called. The search is not the client's to call.
	if err := a.declare(choice != `"none"`); err != nil {
		return err
	}
	if len(a.out) == empty {
		a.out = a.out[:from]
	} else {
		a.out = append(a.out, ']')
	}
	return a.choose(choice, sonar, search)
}

// webSearch is the search as a tool; nil where nobody asked for one. Sonar models always have it.
func (a *agent) webSearch(sonar, off bool) []byte {
	options := a.take("web_search_options")
	results := a.take("num_search_results")
	narrowed := make([]byte, 0, 64)
	for _, name := range filters {
		if v := a.take(name); says(v) {
			narrowed = raw(narrowed, name, v)
		}
	}
	if off {
		if options != "" || results != "" || len(narrowed) > 0 {
			a.dropped("web_search_options", notSearched)
		}
		return nil
	}
	if !sonar && options == "" && results == "" && len(narrowed) == 0 {
		return nil
	}
	web := []byte(`{"type":"web_search"`)
	for key, v := range members(gjson.Parse(options)) {
		switch {
		case !given(v):
		case key.Str == "search_context_size":
			web = raw(web, key.Str, v.Raw)
		case key.Str == "user_location":
			web = append(member(web, "user_location"), a.location(v)...)
		default:
			a.dropped("web_search_options."+key.Str, unsupported)
		}
	}
	web = raw(web, "max_results", results)
	if len(narrowed) > 0 {
		web = append(append(append(member(web, "filters"), '{'), narrowed...), '}')
	}
	return append(web, '}')
}

// location is flat here, where OpenAI has it under approximate.
func (c *chat) location(v gjson.Result) []byte {
	if inner := v.Get("approximate"); inner.IsObject() {
		v = inner
	}
	out := []byte{'{'}
	for key, v := range members(v) {
		switch key.Str {
		case "type":
		case "country", "city", "region", "latitude", "longitude":
			if given(v) {
				out = raw(out, key.Str, v.Raw)
			}
		default:
			c.dropped("web_search_options.user_location."+key.Str, unsupported)
		}
	}
	return append(out, '}')
}

// hosted are the tools of the provider's own that a client may name among its functions.
var hosted = map[string]bool{"web_search": true, "fetch_url": true, "people_search": true, "finance_search": true}

// declare writes the client's functions flat, as the Responses API has them, if they may be called at all.
func (a *agent) declare(callable bool) error {
	for i, tool := range elements(gjson.Parse(a.take("tools"))) {
		switch kind := tool.Get("type").Str; {
		case kind == "function" && callable:
			a.function(tool.Get("function"))
		case kind == "function":
		case hosted[kind]:
			a.out = append(comma(a.out), tool.Raw...)
		default:
			if err := a.cannot("tools["+strconv.Itoa(i)+"]", "perplexity has no tools of type %q", clean(kind)); err != nil {
				return err
			}
		}
	}
	// Whoever gives functions in the older way looks for calls in the older form, which answers do not have here.
	if older := a.take("functions"); older != "" && says(older) {
		return a.cannot("functions", "functions are given as tools here")
	}
	return nil
}

// function writes one. strict is false in chat where nobody says otherwise, and true in the Responses API.
func (a *agent) function(f gjson.Result) {
	a.functions = append(a.functions, f.Get("name").Str)
	a.out = append(comma(a.out), `{"type":"function"`...)
	strict := "false"
	for key, v := range members(f) {
		switch {
		case !given(v):
		case key.Str == "strict":
			strict = v.Raw
		case key.Str == "name" || key.Str == "description" || key.Str == "parameters":
			a.out = raw(a.out, key.Str, v.Raw)
		default:
			a.dropped("tools."+key.Str, unsupported)
		}
	}
	a.out = append(raw(a.out, "strict", strict), '}')
}

// choose writes tool_choice. A client that demands a call of its function gets it; else a Sonar model must search.
func (a *agent) choose(choice string, sonar bool, search string) error {
	c := gjson.Parse(choice)
	name := c.Get("function.name")
	switch kind := c.Get("type").Str; {
	case isObject(choice) && name.Exists():
		a.out = append(append(append(member(a.out, "tool_choice"), `{"type":"function","name":`...), name.Raw...), '}')
	case kind == "allowed_tools":
		a.allowed(c.Get("allowed_tools"))
	case isObject(choice) && hosted[kind]:
		a.out = raw(a.out, "tool_choice", choice)
	case isObject(choice):
		if err := a.cannot("tool_choice", "perplexity cannot be made to choose tools of type %q", clean(kind)); err != nil {
			return err
		}
		return a.choose("", sonar, search)
	case choice == "" || choice == `"auto"` || choice == `"none"`:
		if sonar && search != "" {
			from := len(a.out)
			a.out = raw(a.out, "tool_choice", search)
			a.forced = [2]int{from, len(a.out)}
		}
	default:
		a.out = raw(a.out, "tool_choice", choice)
	}
	return nil
}

func (a *agent) allowed(v gjson.Result) {
	a.out = append(member(a.out, "tool_choice"), `{"type":"allowed_tools"`...)
	if mode := v.Get("mode"); mode.Exists() {
		a.out = raw(a.out, "mode", mode.Raw)
	}
	a.out = append(member(a.out, "tools"), '[')
	for _, tool := range elements(v.Get("tools")) {
		a.out = append(comma(a.out), '{')
		a.out = raw(a.out, "type", tool.Get("type").Raw)
		a.out = append(raw(a.out, "name", tool.Get("function.name").Raw), '}')
	}
	a.out = append(a.out, "]}"...)
}
