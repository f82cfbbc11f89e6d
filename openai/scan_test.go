package openai

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"threadhub/internal/fault"
)

func scanError(in string) string {
	_, err := Scan([]byte(in), nil)
	if err == nil {
		return ""
	}
	return fault.From(err).Message
}

func TestScanErrors(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		got := strings.TrimPrefix(scanError(in), "the body is not valid JSON: ")
		if got != want {
			t.Errorf("%.40q: %q, want %q", in, got, want)
		}
	}
	for _, ok := range []string{
		`{}`, ` { } `, `[]`, `null`, `true`, `false`, `0`, `-0`, `-0.0e-0`, `1E+9`, `1e999999`, `12345678901234567890`, `""`, `"é\u00e9\/\b"`,
		`"\ud800"`, `"\udc00\ud800"`, `"\u0000"`, "\"\x7f\"", `{"a":{"b":[1,2,{"c":null}]}}`, "\t\r\n {\"a\" :\n1 , \"b\": 2}\r\n",
	} {
		f(ok, "")
	}
	f(``, "the text ends where a value should be at byte 0")
	f("\xEF\xBB\xBF{}", "byte order mark at byte 0")
	f(`{}{}`, `'{' where the end should be at byte 2`)
	f(`{} x`, `'x' where the end should be at byte 3`)
	f("{}\x00", `byte 0x00 where the end should be at byte 2`)
	f(`{"a":1,}`, `'}' where a value after the comma should be at byte 7`)
	f(`[1,]`, `']' where a value after the comma should be at byte 3`)
	f(`[,1]`, `',' where a value should be at byte 1`)
	f(`[1 2]`, `'2' where a comma or the end of the array should be at byte 3`)
	f(`{"a" 1}`, `'1' where a colon should be at byte 5`)
	f(`{a:1}`, `'a' where a member's name should be at byte 1`)
	f(`{"a":1`, "the text ends where a comma or the end of the object should be at byte 6")
	f(`{"a`, "the text ends within a string at byte 3")
	f(`{"a":"\`, "the text ends within a string at byte 7")
	f(`"a`+"\n"+`"`, "control character 0x0a within a string at byte 2")
	f(`"\x"`, "invalid escape within a string at byte 1")
	f(`"\u12g4"`, "invalid escape within a string at byte 1")
	f(`"\u12`, "invalid escape within a string at byte 1")
	f("\"\xff\"", "invalid UTF-8 at byte 1")
	f("\"aaaaaaaaaaaaaaaaa\xed\xa0\x80\"", "invalid UTF-8 at byte 18") // a surrogate half in UTF-8
	f("\"\xc0\xaf\"", "invalid UTF-8 at byte 1")                       // an overlong form
	f(`01`, `'1' where the end should be at byte 1`)
	f(`+1`, `'+' where a value should be at byte 0`)
	f(`1.`, "the text ends where a digit should be at byte 2")
	f(`.5`, `'.' where a value should be at byte 0`)
	f(`-`, "the text ends where a digit should be at byte 1")
	f(`1e+`, "the text ends where a digit should be at byte 3")
	f(`nul`, "an unknown word at byte 0")
	f(`NaN`, `'N' where a value should be at byte 0`)
	f(`tru}`, "an unknown word at byte 0")
	f(`'a'`, `'\'' where a value should be at byte 0`)
	f(`[1]//`, `'/' where the end should be at byte 3`)
	f(strings.Repeat("[", MaxDepth)+strings.Repeat("]", MaxDepth), "")
	f(strings.Repeat("[", MaxDepth+1)+strings.Repeat("]", MaxDepth+1), "nesting deeper than 64 at byte 64")
	f(strings.Repeat(`{"a":`, MaxDepth+1)+"1"+strings.Repeat("}", MaxDepth+1), "nesting deeper than 64 at byte 320")
	f(strings.Repeat("[", 2_000_000), "nesting deeper than 64 at byte 64")
}

// The first special byte must be found at every place of the eight the scanner looks at together, whatever is around it.
func TestScanStringsAtEveryOffset(t *testing.T) {
	for pad := range 20 {
		for c := range 256 {
			in := `"` + strings.Repeat("a", pad) + string([]byte{byte(c)}) + "!" + strings.Repeat("z", 9) + `"`
			want := json.Valid([]byte(in)) && utf8.ValidString(in)
			if got := scanError(in) == ""; got != want {
				t.Fatalf("%q: valid %v, want %v", in, got, want)
			}
		}
	}
}

func TestScanMembers(t *testing.T) {
	in := []byte(`x { "a" : 1 ,"\u0062\n":[ 2 ], "" :null}`)[1:]
	got, err := Scan(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range got {
		out = append(out, fmt.Sprintf("%q %s %s", m.Name, m.Key.of(in), m.Value.of(in)))
	}
	want := []string{`"a" "a" 1`, `"b\n" "\u0062\n" [ 2 ]`, `"" "" null`}
	if fmt.Sprint(out) != fmt.Sprint(want) {
		t.Errorf("%q, want %q", out, want)
	}
}

func TestScanDuplicates(t *testing.T) {
	many := func(last string) string {
		var b strings.Builder
		for i := range 100 {
			fmt.Fprintf(&b, `"k%d":%d,`, i, i)
		}
		return "{" + b.String() + last + ":1}"
	}
	for in, dup := range map[string]string{
		`{"a":1,"a":1}`: "a", `{"a":1,"\u0061":1}`: "a", many(`"k7"`): "k7", many(`"k\u0039\u0039"`): "k99", many(`"K7"`): "", `{"a":{"b":1,"b":2}}`: "",
	} {
		_, err := Scan([]byte(in), nil)
		if dup == "" && err != nil || dup != "" && (!fault.HasCode(err, "duplicate_parameter") || fault.From(err).Param != dup) {
			t.Errorf("%.30s: %v, want duplicate %q", in, err, dup)
		}
	}
}

// JSON bombs. Linear time is milliseconds; quadratic would be hours. The limit leaves room for slow machines.
func TestScanIsLinear(t *testing.T) {
	var members strings.Builder
	for i := range 200_000 {
		fmt.Fprintf(&members, `"k%d":1,`, i)
	}
	for name, in := range map[string]string{
		"very many members": "{" + members.String() + `"z":1}`,
		"a long number":     strings.Repeat("9", 2<<20),
		"a long string":     `"` + strings.Repeat(`\u0041`, 1<<19) + `"`,
		"a long array":      "[" + strings.Repeat("0,", 1<<20) + "0]",
		"white space":       strings.Repeat(" ", 4<<20) + "0",
		"many bombs":        "[" + strings.Repeat(strings.Repeat("[", 60)+strings.Repeat("]", 60)+",", 10_000) + "0]",
	} {
		start := time.Now()
		_, err := Scan([]byte(in), nil)
		if d := time.Since(start); d > 20*time.Second {
			t.Errorf("%s took %v", name, d)
		}
		if name == "very many members" && !fault.HasCode(err, "invalid_json") {
			t.Errorf("%s: %v", name, err)
		} else if name != "very many members" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzScan(f *testing.F) {
	for _, s := range []string{`{"a":[1,-2.5e+7,"x\u00e9\ud83d\ude00",null,true]}`, `{"a":1,"a":2}`, `[[[]]]`, "\"\xff\"", `0123`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		_, err := Scan(in, nil)
		valid := json.Valid(in) && utf8.Valid(in)
		if err == nil && !valid {
			t.Fatalf("accepted %q", in)
		}
		if err != nil && valid {
			msg := fault.From(err).Message
			if !fault.HasCode(err, "duplicate_parameter") && !strings.Contains(msg, "deeper") && !strings.Contains(msg, "more than") {
				t.Fatalf("refused %q: %v", in, err)
			}
		}
	})
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		`""`: "", `"a"`: "a", `"\"\\\/\b\f\n\r\t"`: "\"\\/\b\f\n\r\t", `"\u00e9\u4f60"`: "é你", `"\ud83d\ude00!"`: "😀!", `"\ud83d"`: "\uFFFD",
		`"\ud83d\ud83d\ude00"`: "\uFFFD😀", `"\ude00\ud83d"`: "\uFFFD\uFFFD", `"\ud83dx"`: "\uFFFDx", `"\u0000"`: "\x00", `1`: "", `null`: "", ``: "",
	} {
		if got := text([]byte(in)); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
		if n := textLen(body([]byte(in))); n != int64(len(want)) {
			t.Errorf("%s: length %d, want %d", in, n, len(want))
		}
	}
}

func TestAppendString(t *testing.T) {
	for _, in := range []string{"", "a", "\"\\\n\r\t\x00\x1f\x7f/<>&", "é你😀\u2028", "\xff a\xc3", "\xed\xa0\x80"} {
		got := appendString(nil, in)
		var back string
		if err := json.Unmarshal(got, &back); err != nil || back != strings.ToValidUTF8(perByte(in), "\uFFFD") {
			t.Errorf("%q: %s, %q, %v", in, got, back, err)
		}
	}
}

// perByte makes every invalid byte a run of its own.
func perByte(s string) string { return string([]rune(s)) }

func TestWhole(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "-0": 0, "7": 7, "-7": -7, "12.0": 12, "1e3": 1000, "1.5e1": 15, "9007199254740992": 1 << 53,
	} {
		if got, ok := whole([]byte(in)); !ok || got != want {
			t.Errorf("%s: %d, %v", in, got, ok)
		}
	}
	for _, in := range []string{"", "null", "true", `"7"`, "1.5", "1e-1", "1e30", "1e999999", "-1e30", "9007199254740993", "99999999999999999999999", "[]", "{}"} {
		if got, ok := whole([]byte(in)); ok {
			t.Errorf("%s: taken as %d", in, got)
		}
	}
}
