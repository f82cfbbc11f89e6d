package perplexity

import (
	"iter"

	"github.com/tidwall/gjson"
)

// JSON is written by appending. member and element put the comma where one is due, which the byte before tells.

// member begins a member of the object that dst is in; its value is appended next.
func member(dst []byte, name string) []byte {
	dst = comma(dst)
	dst = append(dst, '"')
	dst = append(dst, name...)
	return append(dst, `":`...)
}

// comma appends a comma, unless an object or an array has just begun.
func comma(dst []byte) []byte {
	if n := len(dst); n == 0 || dst[n-1] == '{' || dst[n-1] == '[' {
		return dst
	}
	return append(dst, ',')
}

// raw appends a member whose value is JSON already; nothing if there is none.
func raw(dst []byte, name, value string) []byte {
	if value == "" {
		return dst
	}
	return append(member(dst, name), value...)
}

// str appends a member whose value is the string of this body.
func str[T string | []byte](dst []byte, name string, body T) []byte {
	dst = append(member(dst, name), '"')
	dst = append(dst, body...)
	return append(dst, '"')
}

// quoted appends text as a JSON string.
func quoted(dst []byte, text string) []byte { return gjson.AppendJSONString(dst, text) }

// body is what is between the quotes of a JSON string, still escaped; "" for any other value.
func body(value string) string {
	if !isString(value) {
		return ""
	}
	return value[1 : len(value)-1]
}

// plain is the text of a body.
func plain(body []byte) string {
	text := make([]byte, 0, len(body)+2)
	text = append(append(append(text, '"'), body...), '"')
	return gjson.ParseBytes(text).Str
}

func isString(value string) bool { return len(value) > 1 && value[0] == '"' }
func isArray(value string) bool  { return len(value) > 0 && value[0] == '[' }
func isObject(value string) bool { return len(value) > 0 && value[0] == '{' }

// given reports whether v is there and says something.
func given(v gjson.Result) bool { return v.Exists() && v.Type != gjson.Null }

// elements are those of an array, by their place; of anything else, none.
func elements(v gjson.Result) iter.Seq2[int, gjson.Result] {
	return func(yield func(int, gjson.Result) bool) {
		if v.IsArray() {
			v.ForEach(func(i, e gjson.Result) bool { return yield(int(i.Num), e) })
		}
	}
}

// members are those of an object, by their name; of anything else, none.
func members(v gjson.Result) iter.Seq2[gjson.Result, gjson.Result] {
	return func(yield func(name, value gjson.Result) bool) {
		if v.IsObject() {
			v.ForEach(yield)
		}
	}
}
