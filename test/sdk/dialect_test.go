package sdk

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"threadhub/simulator"
)

// dialect is what the cases know of a provider. Where one cannot do a case as it is written, its dialect says what it does
// instead, and the cases hold it to that.
type dialect struct {
	model string // what is asked for; its answers name it, or a snapshot of it
	price price  // zero: the provider says what an answer cost, and the gateway reports that

	// conversation reads a request: what the provider was shown, in order.
	conversation func(body []byte) ([]shown, error)

	form    string  // members of a request for structured output, with %s where the schema is
	refused refusal // how it is made to refuse a request

	// counts is set where each piece of a stream says what it took so far: then what was cut is priced by that.
	counts bool
	// unnamed is set where a call that comes alone has no id: then the gateway gives it one.
	unnamed bool
	// signature finds what the provider signs its answers with; nil: it signs none. In a thread it goes back as it came,
	// which no client has to do for it.
	signature *regexp.Regexp
}

// price is what a token costs, in pico-dollars: the dollars a million cost, times a million.
type price struct{ fresh, cached, generated int64 }

// refusal is a request that a provider answers with 400, and how the client is told.
type refusal struct {
	temperature float64
	script      string // what the simulator is told, where the provider refuses nothing that the SDKs can say
	param, code string // code: invalid_request is ours, where the provider has none
	before      int    // how often it is asked in another way before that
}

// shown is a message as a provider was shown it.
type shown struct {
	Role   string
	Text   string
	Calls  []toolCall `json:",omitempty"` // an assistant's
	CallID string     `json:",omitempty"` // a tool's
}

// dialects are those of the providers.
var dialects = map[string]dialect{
	"openai": {
		model:        "gpt-4.1-mini",
		price:        price{400_000, 100_000, 1_600_000},
		conversation: chatMessages,
		form:         chatForm,
		refused:      refusal{temperature: 5, param: "temperature", code: "decimal_above_max_value"},
	},
	"openrouter": {
		model:        "anthropic/claude-haiku-5.5",
		conversation: chatMessages,
		form:         chatForm,
		// It takes any temperature; its own 400 has a number for a code and names no param.
		refused: refusal{script: "[[sim status=400]]", code: "invalid_request"},
	},
	"gemini": {
		counts: true,
		// It thinks before it answers, and signs what it then says.
		model:        "gemini-3.8-flash",
		price:        price{750_000, 75_000, 3_750_000},
		conversation: geminiContents,
		// Gemini has neither a name for the schema nor a strict mode: it always keeps to it.
		form: `{"generationConfig":{"responseMimeType":"application/json","responseJsonSchema":%s}}`,
		// Google's 400 has a number for a code and tells in its message alone what was wrong.
		refused:   refusal{temperature: 5, code: "invalid_request"},
		unnamed:   true,
		signature: regexp.MustCompile(`"thoughtSignature":\s*"([^"]+)"`),
	},
	"perplexity": {
		// The Agent API searches before it answers, in events of its own, and bills the search.
		model:        "perplexity/sonar",
		conversation: agentInput,
		form:         chatForm,
		// Its 400 has a code and names no param.
		refused: refusal{temperature: 5, code: "invalid_parameter", before: 1}, // once with our demand for a search
	},
}

// chatForm is how OpenAI's chat API is asked for structured output, and the Agent API too.
const chatForm = `{"response_format":{"type":"json_schema","json_schema":{"name":"answer","strict":true,"schema":%s}}}`

// cost is what a whole answer cost, in pico-dollars, and how that is known.
func (d dialect) cost(a simulator.Attempt) (pico int64, status string) {
	u, p := a.Usage, d.price
	if p == (price{}) {
		return u.CostPico, "reported"
	}
	return (u.Prompt-u.Cached)*p.fresh + u.Cached*p.cached + u.Completion*p.generated, "computed"
}

// signatures are those in an answer of the provider's.
func (d dialect) signatures(a simulator.Attempt) (list []string) {
	if d.signature == nil {
		return nil
	}
	for _, e := range a.Events {
		for _, m := range d.signature.FindAllStringSubmatch(e, -1) {
			list = append(list, m[1])
		}
	}
	return list
}

// chatMessages reads a request in OpenAI's own form.
func chatMessages(body []byte) (list []shown, err error) {
	var r struct {
		Messages []struct {
			Role       string
			Content    *string
			ToolCalls  []keptCall `json:"tool_calls"`
			ToolCallID string     `json:"tool_call_id"`
		}
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, err
	}
	for _, m := range r.Messages {
		s := shown{Role: m.Role, CallID: m.ToolCallID}
		if m.Content != nil {
			s.Text = *m.Content
		}
		for _, c := range m.ToolCalls {
			s.Calls = append(s.Calls, toolCall{ID: c.ID, Name: c.Function.Name, Args: json.RawMessage(c.Function.Arguments)})
		}
		list = append(list, s)
	}
	return list, nil
}

// geminiContents reads a request to generateContent. A content holds what one side says until the other speaks: texts,
// each of which was a message, then calls, which were one, or the results of tools.
func geminiContents(body []byte) (list []shown, err error) {
	type content struct {
		Role  string
		Parts []struct {
			Text         *string
			FunctionCall *struct {
				ID, Name string
				Args     json.RawMessage
			}
			FunctionResponse *struct {
				ID       string
				Response struct{ Output string }
			}
		}
	}
	var r struct {
		SystemInstruction *content
		Contents          []content
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, err
	}
	if r.SystemInstruction != nil {
		r.SystemInstruction.Role = "system"
		r.Contents = append([]content{*r.SystemInstruction}, r.Contents...)
	}
	for _, c := range r.Contents {
		role := strings.Replace(c.Role, "model", "assistant", 1)
		calling := shown{Role: role}
		for i, p := range c.Parts {
			switch {
			case p.FunctionCall != nil:
				calling.Calls = append(calling.Calls, toolCall{ID: p.FunctionCall.ID, Name: p.FunctionCall.Name, Args: p.FunctionCall.Args})
			case p.FunctionResponse != nil:
				list = append(list, shown{Role: "tool", Text: p.FunctionResponse.Response.Output, CallID: p.FunctionResponse.ID})
			case p.Text == nil:
				return nil, fmt.Errorf("part %d of %+v is neither text nor a function's", i, c)
			case *p.Text != "": // an empty one only carries a signature
				list = append(list, shown{Role: role, Text: *p.Text})
			}
		}
		if calling.Calls != nil {
			list = append(list, calling)
		}
	}
	return list, nil
}

// agentInput reads a request to Perplexity's Agent API. Calls side by side are one message.
func agentInput(body []byte) (list []shown, err error) {
	var r struct {
		Instructions string
		Input        []struct {
			Type, Role, Content     string
			Name, Arguments, Output string
			CallID                  string `json:"call_id"`
		}
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, err
	}
	if r.Instructions != "" {
		list = append(list, shown{Role: "system", Text: r.Instructions})
	}
	calling := false
	for _, item := range r.Input {
		was := calling
		calling = item.Type == "function_call"
		switch item.Type {
		case "message":
			list = append(list, shown{Role: item.Role, Text: item.Content})
		case "function_call":
			if !was {
				list = append(list, shown{Role: "assistant"})
			}
			last := &list[len(list)-1]
			last.Calls = append(last.Calls, toolCall{ID: item.CallID, Name: item.Name, Args: json.RawMessage(item.Arguments)})
		case "function_call_output":
			list = append(list, shown{Role: "tool", Text: item.Output, CallID: item.CallID})
		default:
			return nil, fmt.Errorf("an item of the input is a %q", item.Type)
		}
	}
	return list, nil
}
