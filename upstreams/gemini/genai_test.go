package gemini

import (
	"bytes"
	"encoding/json"
	"testing"

	"google.golang.org/genai"
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
