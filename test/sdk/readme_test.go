package sdk

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"threadhub/test/rig"
)

// The snippets of the README work as they stand, against a demo: only its address and key are put in. Both speak to the
// thread they name.
func TestREADME(t *testing.T) {
	t.Parallel()
	needsNode(t)
	t.Cleanup(rig.CloseIdle)
	g := rig.NewHouse(t, rig.Options{}).Demo()
	readme := string(get(t, filepath.Join(rig.Root(t), "README.md")))
	ran := 0
	for _, s := range []struct {
		language string
		run      func(t *testing.T, snippet, model, text string) *exec.Cmd
	}{{"js", nodeSnippet}, {"go", goSnippet}} {
		text := "Hello from " + s.language
		cmd := s.run(t, snippet(t, readme, s.language, g), "openai/gpt-5.4-mini", text)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "You said: "+text) {
			t.Errorf("the README's %s: %v\n%s", s.language, err, out)
		}
		ran++
	}
	var th thread
	if err := g.Must(t, 200, "GET", "/api/threads/first", g.Key, nil).JSON(&th); err != nil {
		t.Fatal(err)
	}
	if len(th.Messages) != 2*ran {
		t.Errorf("the thread of the snippets holds %d messages, want %d: %+v", len(th.Messages), 2*ran, th.Messages)
	}
}

// snippet is the README's one block in this language that makes a client, with the demo's address and key.
func snippet(t *testing.T, readme, language string, g *rig.Gateway) string {
	t.Helper()
	var found []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(readme, -1) {
		if strings.Contains(m[1], "client") {
			found = append(found, m[1])
		}
	}
	if len(found) != 1 {
		t.Fatalf("the README has %d blocks of %s that make a client, want 1", len(found), language)
	}
	s := found[0]
	for from, to := range map[string]string{"http://127.0.0.1:8080/v1": g.URL + "/v1", "th_…": g.Key} {
		if strings.Count(s, from) != 1 {
			t.Fatalf("the README's %s does not hold %q once:\n%s", language, from, s)
		}
		s = strings.Replace(s, from, to, 1)
	}
	return s
}

func nodeSnippet(t *testing.T, snippet, model, text string) *exec.Cmd {
	file := filepath.Join(nodeFolder(t), "snippet.mjs")
	put(t, file, []byte(snippet+fmt.Sprintf(`
const answer = await client.chat.completions.create({ model: %q, messages: [{ role: "user", content: %q }] });
console.log(answer.choices[0].message.content);
`, model, text)))
	return exec.Command("node", file)
}

func goSnippet(t *testing.T, snippet, model, text string) *exec.Cmd {
	imports, client, ok := strings.Cut(snippet, "\n")
	if !ok {
		t.Fatalf("the README's go is not an import and a client:\n%s", snippet)
	}
	file := filepath.Join(t.TempDir(), "main.go")
	put(t, file, []byte("package main\n\n"+imports+fmt.Sprintf(`
import ("context"; "fmt"; "os")

func main() {
	%s
	answer, err := client.Chat.Completions.New(context.Background(), openai.ChatCompletionNewParams{
		Model: %q, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(%q)},
	})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(answer.Choices[0].Message.Content)
}
`, client, model, text)))
	cmd := exec.Command("go", append(append([]string{"run"}, goFlags...), file)...)
	cmd.Dir = rig.Root(t)
	return cmd
}
