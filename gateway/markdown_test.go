package gateway

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"threadhub/threads"
)

func asMarkdown(raw string) string {
	m := &threads.Message{Seq: 3, Role: "user", Raw: []byte(raw), Status: threads.Complete, CreatedAt: time.Unix(0, 0)}
	out := string((&markdown{}).message(nil, nil, m))
	body, ok := strings.CutPrefix(out, "\n## 3. user · 1970-01-01T00:00:00Z\n")
	if !ok {
		return "no heading: " + out
	}
	return body
}

func TestMarkdown(t *testing.T) {
	for raw, want := range map[string]string{
		`{"content":"hello\nworld"}`:                     "\n> hello\n> world\n",
		`{"content":""}`:                                 "",
		`{"content":null}`:                               "",
		`{"content":"# a\r\n## 4. user\rx"}`:             "\n> # a\n> ## 4. user\n> x\n",
		`{"content":"<script>x</script> a < b <3 <!--"}`: "\n> &lt;script>x&lt;/script> a < b &lt;3 &lt;!--\n",
		"{\"content\":\"```html\\n<b>\\n```\\n<b>\"}":    "\n> ```html\n> <b>\n> ```\n> &lt;b>\n",
		"{\"content\":\"```\\n<b>\\n  ```\\n<b>\"}":      "\n> ```\n> <b>\n>   ```\n> &lt;b>\n",
		"{\"content\":\"- ```\\n~~~\\n<b>\"}":            "\n> - ```\n> ~~~\n> &lt;b>\n",
		"{\"content\":\" ```\\n~~~\\n```\\n<b>\"}":       "\n>  ```\n> ~~~\n> ```\n> &lt;b>\n",
		"{\"content\":\"```a`b\\n<b>\"}":                 "\n> ```a`b\n> &lt;b>\n",
		`{"content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"https://x.test/a b>)"}}]}`: "\n> a\n\n[image](<https://x.test/a%20b%3E)>)\n",
		`{"content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}`:                      "\n(an image in the message itself, image/png, 4 characters)\n",
		`{"content":[{"type":"image_url","image_url":{"url":"javascript:alert(1)"}}]}`:                             "\n(an image without an address of its own)\n",
		`{"content":[{"type":"input_audio","input_audio":{"data":"AAAA"}}, {"type":"a\n# b"}, 7]}`:                 "\n(a part of the type input\\_audio)\n\n(a part of the type a \\# b)\n\n(a part of the type )\n",
		`{"content":null,"refusal":"no"}`:                                                       "\nRefused:\n\n> no\n",
		`{"tool_call_id":"call_1\n# x","content":"42"}`:                                         "\nResult of the tool call call\\_1 \\# x\n\n> 42\n",
		"{\"tool_calls\":[{\"id\":\"c\",\"function\":{\"name\":\"f\",\"arguments\":\"```\"}}]}": "\nTool calls:\n\n````json\n[\n  {\n    \"id\": \"c\",\n    \"function\": {\n      \"name\": \"f\",\n      \"arguments\": \"```\"\n    }\n  }\n]\n````\n",
	} {
		if diff := cmp.Diff(want, asMarkdown(raw)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", raw, diff)
		}
	}
}

// Whatever is said, each line of the document is ours or quoted.
func FuzzMarkdown(f *testing.F) {
	for _, s := range []string{"a\nb", "```\n", "\r# x", "> <b>", "~~~~\n~~~", "<!--"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for line := range strings.Lines(string(quote(nil, s))) {
			if !strings.HasPrefix(line, "> ") || !strings.HasSuffix(line, "\n") || strings.ContainsAny(line, "\r\x00") {
				t.Errorf("%q has the line %q", s, line)
			}
		}
		if title := plainText(s); strings.ContainsAny(title, "\r\n") {
			t.Errorf("%q is %q in one line", s, title)
		}
	})
}
