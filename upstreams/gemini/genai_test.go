package gemini

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/genai"

	"threadhub/internal/fault"
	"threadhub/upstreams"
)

// known is a request as Google's own client for Go knows it.
type known struct {
	SystemInstruction *genai.Content
	Contents          []*genai.Content
	Tools             []*genai.Tool
	ToolConfig        *genai.ToolConfig
	SafetySettings    []*genai.SafetySetting
	GenerationConfig  struct {
		genai.GenerationConfig
		ThinkingConfig *genai.ThinkingConfig
	}
	CachedContent string
	ServiceTier   genai.ServiceTier
}

// strict fails for a request with members that Google's client does not know, or of other types. The client holds
// signatures as bytes and would refuse the placeholder, which is no base64 of the standard alphabet, and which Google
// documents as text: it is stood in for.
func strict(t testing.TB, body []byte) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(bytes.ReplaceAll(body, []byte(placeholder), []byte(`"AAAA"`))))
	d.DisallowUnknownFields()
	var k known
	if err := d.Decode(&k); err != nil {
		t.Errorf("Google's client does not know %s: %v", body, err)
	}
	for i, c := range k.Contents {
		want := genai.RoleUser
		if i%2 == 1 {
			want = genai.RoleModel
		}
		if c.Role != want || len(c.Parts) == 0 {
			t.Errorf("content %d is %s's, with %d parts: %s", i, c.Role, len(c.Parts), body)
		}
	}
}

// Google's client knows all that becomes of the requests clients were seen to send, at every kind of model.
func TestGoogleKnowsWhatClientsSend(t *testing.T) {
	paths, err := filepath.Glob("../../openai/testdata/*/*/*.req.json")
	if err != nil || len(paths) < 20 {
		t.Fatalf("%d requests, %v", len(paths), err)
	}
	carried := 0
	for _, path := range paths {
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, model := range []string{"gemini-2.5-flash", "gemini-3.8-flash", "gemini-4-hydrogen", "gemma-4-31b-it"} {
			for _, policy := range []upstreams.Policy{upstreams.ByClass, upstreams.Drop} {
				w, err := still().translate(&upstreams.Request{Body: body, Model: model, Unsupported: policy})
				if err != nil {
					if f := fault.From(err); f.Kind != fault.Invalid || f.Param == "" || f.Code == "" {
						t.Errorf("%s to %s: %+v", path, model, f)
					}
					continue
				}
				carried++
				strict(t, w.Body())
			}
		}
	}
	if carried < 4*len(paths) {
		t.Errorf("only %d of %d are carried", carried, 8*len(paths))
	}
}
