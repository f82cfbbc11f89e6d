package openai

// ForProvider returns a stored message as it goes upstream again: message itself if keepExtras, for the provider that
// wrote the extras and wants them back (reasoning details, signatures), or if it has none; else a copy with the members
// every provider knows, as they were written: role, content, name, tool_calls, tool_call_id, function_call, refusal and
// audio. Tool calls lose what is not the API's too, and audio all but its id, as the API wants it. message must be valid
// JSON.
func ForProvider(message []byte, keepExtras bool) []byte {
	if keepExtras {
		return message
	}
	return rebuild(message, func(name string, v []byte) ([]byte, bool) {
		switch name {
		case "role", "content", "name", "tool_call_id", "function_call", "refusal":
			return v, true
		case "tool_calls":
			return cleanCalls(v), true
		case "audio":
			if isNull(v) {
				return nil, false
			}
			return rebuild(v, func(name string, v []byte) ([]byte, bool) { return v, name == "id" }), true
		}
		return nil, false
	})
}

// rebuild copies an object, keeping the members f keeps with the values it gives them. It is the object itself if that
// changes nothing. A refusal of null stays only in an object that is not copied.
func rebuild(object []byte, f func(name string, v []byte) ([]byte, bool)) []byte {
	out := []byte{'{'}
	changed, n := false, 0
	walk(object, func(m Member) {
		old := m.Value.of(object)
		v, keep := f(string(m.Name), old)
		if !keep {
			changed = true
			return
		}
		changed = changed || len(v) != len(old)
		if string(m.Name) == "refusal" && isNull(v) {
			return
		}
		out = append(comma(out, n), m.Key.of(object)...)
		out = append(append(out, ':'), v...)
		n++
	})
	if !changed {
		return object
	}
	return append(out, '}')
}

// cleanCalls keeps of tool calls what the API knows: streams leave an index in them, and Gemini its signature.
func cleanCalls(list []byte) []byte {
	var out []byte
	changed := false
	each(list, func(n int, call []byte) {
		clean := rebuild(call, func(name string, v []byte) ([]byte, bool) {
			return v, name == "id" || name == "type" || name == "function" || name == "custom"
		})
		changed = changed || len(clean) != len(call)
		out = append(comma(out, n), clean...)
	})
	if !changed {
		return list
	}
	return append(append([]byte{'['}, out...), ']')
}
