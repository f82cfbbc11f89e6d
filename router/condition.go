package router

import (
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/ext"
)

// Input is what conditions see of a request.
type Input struct {
	Model          string // as the client named it
	Message        string // text of the last user message
	Messages       int
	Tokens         int64
	Tools          bool
	ResponseFormat string
	Images         int
	Headers        map[string]string // names in lower case
	Tags           map[string]string
	Org            string
	Hour           int // 0 to 23, UTC
}

// maxMessage is how much of a message conditions see, in bytes.
const maxMessage = 8 << 10

// newEnv knows the variables of conditions, and one for each list of words.
func newEnv(lists map[string]*words) (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.Variable("message", cel.StringType), cel.Variable("messages", cel.IntType), cel.Variable("tokens", cel.IntType),
		cel.Variable("tools", cel.BoolType), cel.Variable("response_format", cel.StringType), cel.Variable("images", cel.IntType),
		cel.Variable("headers", cel.MapType(cel.StringType, cel.StringType)), cel.Variable("tags", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("org", cel.StringType), cel.Variable("hour", cel.IntType), cel.Variable("model", cel.StringType),
		ext.Strings(ext.StringsVersion(3)),
	}
	for name := range lists {
		options = append(options, cel.Variable("mentions."+name, cel.BoolType), cel.Variable("opens."+name, cel.BoolType))
	}
	return cel.NewEnv(options...)
}

// condition compiles one; nil for one that always holds.
func condition(env *cel.Env, param, text string) (cel.Program, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	if len(text) > maxCondition {
		return nil, wrong(param, "a condition has up to %d bytes", maxCondition)
	}
	ast, issues := env.Compile(text)
	if issues != nil && issues.Err() != nil {
		e := issues.Errors()[0]
		return nil, wrong(param, "line %d, column %d: %s", e.Location.Line(), e.Location.Column()+1, e.Message)
	}
	if ast.OutputType() != cel.BoolType {
		return nil, wrong(param, "line 1, column 1: a condition is true or false, and this is %s", ast.OutputType())
	}
	program, err := env.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(costLimit))
	if err != nil {
		return nil, wrong(param, "line 1, column 1: %v", err)
	}
	return program, nil
}

// question is an Input as conditions ask it. What costs something is found out when it is asked for, and once.
type question struct {
	in    *Input
	words map[string]*words
	text  *text // of the message; nil: not looked at yet
}

// ResolveName is cel.Activation's.
func (q *question) ResolveName(name string) (any, bool) {
	in := q.in
	switch name {
	case "message":
		return in.Message, true
	case "messages":
		return int64(in.Messages), true
	case "tokens":
		return in.Tokens, true
	case "tools":
		return in.Tools, true
	case "response_format":
		return in.ResponseFormat, true
	case "images":
		return int64(in.Images), true
	case "headers":
		return in.Headers, true
	case "tags":
		return in.Tags, true
	case "org":
		return in.Org, true
	case "hour":
		return int64(in.Hour), true
	case "model":
		return in.Model, true
	}
	how, list, ok := strings.Cut(name, ".")
	w := q.words[list]
	if !ok || w == nil {
		return nil, false
	}
	if q.text == nil {
		q.text = newText(in.Message)
	}
	if how == "opens" {
		return w.open(q.text), true
	}
	return w.in(q.text), true
}

// Parent is cel.Activation's.
func (q *question) Parent() cel.Activation { return nil }

// holds asks a condition. An error is a reason why it does not hold: it looks for a header that is not there, or costs
// more than a condition may.
func (q *question) holds(p cel.Program) (bool, error) {
	if p == nil {
		return true, nil
	}
	v, _, err := p.Eval(q)
	if err != nil {
		return false, err
	}
	b, ok := v.Value().(bool)
	if !ok {
		return false, fmt.Errorf("the condition gave %v", v.Type())
	}
	return b, nil
}
