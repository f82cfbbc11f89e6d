package simulator

import (
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// maxDepth is how deep an example goes; schemas may be recursive.
const maxDepth = 12

// example appends a JSON value that a JSON Schema allows: the first of an enum, all properties of an object (required
// ones only, once it is deep), one item of an array, within minimum and minLength. It knows the subset of the schemas
// that strict mode takes. word is what strings are made of.
func example(b []byte, schema, root gjson.Result, word string, depth int) []byte {
	if ref := schema.Get("$ref").String(); ref != "" && depth < 4*maxDepth {
		return example(b, pointer(root, ref), root, word, depth+1)
	}
	if c := schema.Get("const"); c.Exists() {
		return append(b, c.Raw...)
	}
	if e := schema.Get("enum"); e.IsArray() && len(e.Array()) > 0 {
		return append(b, e.Array()[0].Raw...)
	}
	for _, either := range []string{"anyOf", "oneOf"} {
		if list := schema.Get(either).Array(); len(list) > 0 {
			pick := list[0]
			if depth > maxDepth/2 { // out of a recursion by the last way, which is null where there is one
				pick = list[len(list)-1]
			}
			return example(b, pick, root, word, depth+1)
		}
	}
	kind := schema.Get("type")
	name := kind.String()
	if kind.IsArray() && len(kind.Array()) > 0 {
		name = kind.Array()[0].String()
		if depth >= maxDepth {
			name = kind.Array()[len(kind.Array())-1].String()
		}
	}
	if name == "" && schema.Get("properties").Exists() {
		name = "object"
	}
	switch strings.ToLower(name) { // Gemini's older schemas shout
	case "object":
		required := map[string]bool{}
		for _, r := range schema.Get("required").Array() {
			required[r.String()] = true
		}
		b = append(b, '{')
		first := true
		schema.Get("properties").ForEach(func(k, v gjson.Result) bool {
			if !required[k.String()] && depth > maxDepth/2 || depth > 2*maxDepth {
				return true
			}
			if !first {
				b = append(b, ',')
			}
			first = false
			b = append(quote(b, k.String()), ':')
			b = example(b, v, root, word, depth+1)
			return true
		})
		return append(b, '}')
	case "array":
		n := max(1, int(schema.Get("minItems").Int()))
		if depth > maxDepth/2 {
			n = int(schema.Get("minItems").Int())
		}
		b = append(b, '[')
		for i := range min(n, 16) {
			if i > 0 {
				b = append(b, ',')
			}
			b = example(b, schema.Get("items"), root, word, depth+1)
		}
		return append(b, ']')
	case "integer", "number":
		v := 7.0
		if low := schema.Get("minimum"); low.Exists() && low.Num > v {
			v = low.Num
		}
		if high := schema.Get("maximum"); high.Exists() && high.Num < v {
			v = high.Num
		}
		if strings.EqualFold(name, "number") && v == 7 {
			v = 7.5
			if high := schema.Get("maximum"); high.Exists() && high.Num < v {
				v = 7
			}
		}
		return strconv.AppendFloat(b, v, 'f', -1, 64)
	case "boolean":
		return append(b, "true"...)
	case "null":
		return append(b, "null"...)
	default:
		for n := int(schema.Get("minLength").Int()); len(word) < min(n, 4096); {
			word += word + "x"
		}
		if n := int(schema.Get("maxLength").Int()); n > 0 && len(word) > n {
			word = strings.ToValidUTF8(word[:n], "")
		}
		return quote(b, word)
	}
}

// pointer follows a local reference, "#/$defs/x"; what it does not find is a schema that allows anything.
func pointer(root gjson.Result, ref string) gjson.Result {
	path, ok := strings.CutPrefix(ref, "#")
	if !ok {
		return gjson.Result{}
	}
	at := root
	for _, step := range strings.Split(strings.TrimPrefix(path, "/"), "/") {
		if step == "" {
			continue
		}
		step = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
		at = at.Get(gjson.Escape(step))
	}
	return at
}

// loose says what of a schema strict mode refuses; "" if nothing.
func loose(schema gjson.Result, depth int) string {
	if depth > maxDepth {
		return ""
	}
	if schema.Get("type").String() == "object" || schema.Get("properties").Exists() {
		if extra := schema.Get("additionalProperties"); !extra.Exists() || extra.Type != gjson.False {
			return "'additionalProperties' is required to be supplied and to be false."
		}
		required := map[string]bool{}
		for _, r := range schema.Get("required").Array() {
			required[r.String()] = true
		}
		why := ""
		schema.Get("properties").ForEach(func(k, v gjson.Result) bool {
			if !required[k.String()] {
				why = "'required' is required to be supplied and to be an array including every key in properties. Missing '" + k.String() + "'."
			} else {
				why = loose(v, depth+1)
			}
			return why == ""
		})
		if why != "" {
			return why
		}
	}
	if items := schema.Get("items"); items.Exists() {
		return loose(items, depth+1)
	}
	return ""
}
