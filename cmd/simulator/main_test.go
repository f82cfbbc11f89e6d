package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"threadhub/simulator"
)

func TestItSaysWhereItIsAndLogsToItsFile(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	file := filepath.Join(t.TempDir(), "log")
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"--listen", "127.0.0.1:0", "--log", file, "--note", "Played."}, in, io.Discard)
	}()
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var ready struct{ OpenAI, OpenRouter, Control string }
	if err := json.Unmarshal(line, &ready); err != nil || ready.OpenRouter == "" || ready.Control == "" {
		t.Fatalf("%s %v", line, err)
	}
	req, err := http.NewRequest("POST", ready.OpenAI+"/chat/completions", strings.NewReader(`{"model":"sim-1","messages":[{"role":"user","content":"hi"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer k")
	req.Header.Set("Content-Type", "application/json")
	req.Close = true
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || !bytes.Contains(body, []byte("Played.")) {
		t.Errorf("%s %v", body, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var a simulator.Attempt
	if err := json.Unmarshal(b, &a); err != nil || a.End != simulator.EndComplete || a.Seq != 1 {
		t.Errorf("%s %v", b, err)
	}
}

func TestWhatItCanNotDoIsAnError(t *testing.T) {
	for _, args := range [][]string{{"--listen", "nowhere"}, {"--log", filepath.Join(t.TempDir(), "no", "such", "folder")}, {"--what"}} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
}
