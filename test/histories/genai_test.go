package histories

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"google.golang.org/genai"
)

// googleKnows fails for a request to Gemini with a member that Google's own client does not know, or of another type. The
// client holds signatures as bytes and would refuse Google's placeholder, which is a text: it is stood in for.
func googleKnows(c *Conversation, o Outcome) error {
	if c.To.Provider != "gemini" || o.Body == nil {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(bytes.ReplaceAll(o.Body, []byte(`"skip_thought_signature_validator"`), []byte(`"AAAA"`))))
	d.DisallowUnknownFields()
	var known struct {
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
	if err := d.Decode(&known); err != nil {
		return fmt.Errorf("Google's client does not know it: %w", err)
	}
	return nil
}

// What Google's client does not know is seen.
func TestGoogleKnows(t *testing.T) {
	c := &Conversation{To: Target{Provider: "gemini"}}
	for body, want := range map[string]bool{
		`{"contents":[{"role":"user","parts":[{"text":"a"}]}]}`:                         true,
		`{"contents":[{"role":"user","parts":[{"text":"a","type":"b"}]}]}`:              false,
		`{"contents":[{"role":"user","parts":[{"text":7}]}]}`:                           false,
		`{"contents":[],"store":false}`:                                                 false,
		`{"contents":[],"generationConfig":{"thinkingConfig":{"more":1}}}`:              false,
		`{"contents":[],"generationConfig":{"responseFormat":{"a":"b"}}}`:               false,
		`{"contents":[],"generationConfig":{"thinkingConfig":{"thinkingLevel":"low"}}}`: true,
	} {
		if err := googleKnows(c, Outcome{Body: []byte(body)}); (err == nil) != want {
			t.Errorf("%s: %v", body, err)
		}
	}
}
