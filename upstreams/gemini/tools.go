package gemini

import (
	"fmt"
	"strings"

	"github.com/tidwall/gjson"
)

// maxFunctions is how many Gemini takes.
const maxFunctions = 512

// tools writes the tools and which of them may be called.
func (t *translation) tools(out []byte) []byte {
	list := t.chat.tools
	if list.Exists() && !list.IsArray() {
		t.invalid("invalid_type", "tools", "tools must be an array")
		return out
	}
	t.searchOptions()
	w := object{b: append(out, `,"tools":[`...)}
	functions := 0
	each(list, func(i int, v gjson.Result) bool {
		param := fmt.Sprintf("tools[%d]", i)
		switch kind := v.Get("type").Str; {
		case kind == "function":
			if functions++; functions == 1 {
				w.b = append(w.b, `{"functionDeclarations":[`...)
			} else {
				w.b = append(w.b, ',')
			}
			w.b = t.function(w.b, param, v.Get("function"))
		case strings.HasPrefix(kind, "web_search"):
			t.searches = true
		default:
			t.unsupported(param+".type", "gemini has no tools of this type; give functions")
		}
		return t.err == nil
	})
	if functions > maxFunctions {
		t.fail(cannot("tools", "gemini takes at most %d functions", maxFunctions))
	}
	if functions > 0 {
		w.b = append(w.b, `]}`...)
	}
	if t.searches && functions > 0 && t.model.old {
		t.unsupported("web_search_options", "gemini before 3 searches the web only in requests without functions")
		t.searches = false
	}
	switch {
	case t.searches && functions > 0:
		w.b = append(w.b, `,{"googleSearch":{}}`...)
	case t.searches:
		w.b = append(w.b, `{"googleSearch":{}}`...)
	}
	if functions == 0 && !t.searches {
		t.choiceWithoutTools()
		return out
	}
	if functions > 1 && t.chat.parallel.Type == gjson.False {
		t.dropped("parallel_tool_calls", "unsupported")
	}
	return t.choice(append(w.b, ']'), functions > 0)
}

func (t *translation) searchOptions() {
	v := t.chat.web
	if !v.Exists() {
		return
	}
	if !v.IsObject() {
		t.invalid("invalid_type", "web_search_options", "web_search_options must be an object")
	}
	t.searches = true
	v.ForEach(func(key, v gjson.Result) bool {
		if v.Type != gjson.Null {
			t.dropped("web_search_options."+key.Str, "unsupported")
		}
		return true
	})
}

// function writes one declaration. Gemini has no strict mode for functions.
func (t *translation) function(out []byte, param string, f gjson.Result) []byte {
	name := f.Get("name")
	if name.Type != gjson.String || name.Str == "" {
		t.invalid("missing_required_parameter", param+".function.name", "a function has no name")
	}
	w := object{b: append(out, '{')}
	w.raw("name", t.named(name))
	if d := f.Get("description"); d.Type == gjson.String {
		w.raw("description", d.Raw)
	}
	if p := f.Get("parameters"); p.IsObject() && !empty(p) {
		w.key("parametersJsonSchema")
		var s schemas
		if w.b = s.append(w.b, p); s.lost != "" {
			t.dropped("tools.function.parameters."+s.lost, "unsupported")
		}
	} else if p.Exists() && !p.IsObject() && p.Type != gjson.Null {
		t.invalid("invalid_type", param+".function.parameters", "the parameters of a function must be an object")
	}
	return append(w.b, '}')
}

// choiceWithoutTools fails where a call is asked for that cannot be.
func (t *translation) choiceWithoutTools() {
	v := t.chat.toolChoice
	if v.Exists() && v.Str != "none" && v.Str != "auto" {
		t.unsupported("tool_choice", "there is no tool to choose")
	}
}

// choice writes which tools may be called. Search beside functions has to be said, and then calls are checked.
func (t *translation) choice(out []byte, functions bool) []byte {
	mode, names := t.mode()
	both := functions && t.searches
	if mode == "" && both {
		mode = "VALIDATED"
	}
	if mode == "" || !functions && mode != "NONE" {
		if names != nil || mode != "" {
			t.unsupported("tool_choice", "there is no function to choose")
		}
		return out
	}
	w := object{b: append(out, `,"toolConfig":{"functionCallingConfig":{`...)}
	w.raw("mode", `"`+mode+`"`)
	if names != nil {
		w.raw("allowedFunctionNames", "["+strings.Join(names, ",")+"]")
	}
	w.b = append(w.b, '}')
	if both {
		w.raw("includeServerSideToolInvocations", "true")
	}
	return append(w.b, '}')
}

// mode is what tool_choice means to Gemini, with the names of the only functions that may be called, as JSON. "" leaves
// it to the model.
func (t *translation) mode() (mode string, names []string) {
	v := t.chat.toolChoice
	switch v.Str {
	case "none":
		return "NONE", nil
	case "required":
		return "ANY", nil
	case "auto":
		return "", nil
	}
	if !v.Exists() {
		return "", nil
	}
	lost := false
	name := func(f gjson.Result) {
		n := f.Get("function.name")
		if f.Get("type").Str != "function" || n.Type != gjson.String {
			t.unsupported("tool_choice", "gemini can be made to call functions only")
			lost = true
			return
		}
		names = append(names, t.named(n))
	}
	switch v.Get("type").Str {
	case "function":
		if name(v); lost {
			return "", nil
		}
		return "ANY", names
	case "allowed_tools":
		each(v.Get("allowed_tools.tools"), func(_ int, f gjson.Result) bool {
			name(f)
			return true
		})
		if lost && len(names) == 0 {
			return "", nil
		}
		if v.Get("allowed_tools.mode").Str == "required" {
			return "ANY", names
		}
		return "VALIDATED", names // AUTO would not heed the names
	}
	t.unsupported("tool_choice", "gemini has no such choice of tools")
	return "", nil
}

// empty reports whether v has neither members nor elements.
func empty(v gjson.Result) bool {
	none := true
	v.ForEach(func(_, _ gjson.Result) bool {
		none = false
		return false
	})
	return none
}
