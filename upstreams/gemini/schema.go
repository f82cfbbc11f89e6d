package gemini

import "github.com/tidwall/gjson"

// schemas copies JSON Schemas in the subset Gemini takes. Members keep their order and their spelling; a const becomes an
// enum of one, $schema goes, and so does what constrains in a way Gemini has not.
type schemas struct {
	lost string // the first keyword that went and that a strict client would miss
}

// append appends the schema v, valid JSON: an object, or true or false.
func (s *schemas) append(dst []byte, v gjson.Result) []byte {
	if !v.IsObject() {
		return append(dst, v.Raw...)
	}
	dst = append(dst, '{')
	n := 0
	member := func(key string) {
		if n > 0 {
			dst = append(dst, ',')
		}
		n++
		dst = append(append(dst, key...), ':')
	}
	v.ForEach(func(key, value gjson.Result) bool {
		switch name := key.String(); name {
		case "$schema":
		case "allOf", "not", "if", "then", "else", "pattern":
			if s.lost == "" {
				s.lost = name
			}
		case "const":
			member(`"enum"`)
			dst = append(append(append(dst, '['), value.Raw...), ']')
		case "enum":
			if !v.Get("const").Exists() {
				member(key.Raw)
				dst = append(dst, value.Raw...)
			}
		case "properties", "$defs", "definitions", "patternProperties", "dependentSchemas":
			member(key.Raw)
			dst = s.named(dst, value)
		case "items", "prefixItems", "anyOf", "oneOf", "additionalProperties", "contains", "propertyNames":
			member(key.Raw)
			dst = s.listed(dst, value)
		default:
			member(key.Raw)
			dst = append(dst, value.Raw...)
		}
		return true
	})
	return append(dst, '}')
}

// named appends an object whose members are schemas, by names that are the client's.
func (s *schemas) named(dst []byte, v gjson.Result) []byte {
	if !v.IsObject() {
		return append(dst, v.Raw...)
	}
	dst = append(dst, '{')
	n := 0
	v.ForEach(func(key, value gjson.Result) bool {
		if n > 0 {
			dst = append(dst, ',')
		}
		n++
		dst = s.append(append(append(dst, key.Raw...), ':'), value)
		return true
	})
	return append(dst, '}')
}

// listed appends a schema, or an array of them.
func (s *schemas) listed(dst []byte, v gjson.Result) []byte {
	if !v.IsArray() {
		return s.append(dst, v)
	}
	dst = append(dst, '[')
	n := 0
	v.ForEach(func(_, value gjson.Result) bool {
		if n > 0 {
			dst = append(dst, ',')
		}
		n++
		dst = s.append(dst, value)
		return true
	})
	return append(dst, ']')
}
