package kills

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"threadhub/internal/testkit"
	"threadhub/simulator"
	"threadhub/test/rig"
)

// event is one event of a stream, as its client saw it.
type event struct {
	n    int
	text string
	code string // of an error
	at   time.Time
}

// eventsOf reads events until the stream breaks or ends.
func eventsOf(lines *bufio.Scanner, each func(event)) {
	var e event
	for lines.Scan() {
		if n, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			e.n, _ = strconv.Atoi(n)
		}
		payload, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var s said
		_ = json.Unmarshal([]byte(payload), &s) // [DONE] is none
		if s.Error != nil {
			e.code = s.Error.Code
		}
		for _, c := range s.Choices {
			e.text += c.Delta.Content
		}
		e.at = time.Now()
		each(e)
		e = event{}
	}
}

// With Redis a killed replica leaves all it streamed but the last second, or 4 KiB: another one gives the rest of that to
// who resumes, then says that the replica is lost, and the thread keeps it. Two seconds are allowed here, as the machine
// may be busy; without the telling nothing is left at all.
func TestAKilledReplicaLeavesWhatItTold(t *testing.T) {
	t.Parallel()
	house := rig.NewHouse(t, rig.Options{
		Database: testkit.Postgres(t), Sim: rig.Simulator(t, simulator.Options{}),
		Env: []string{"REDIS_URL=" + testkit.Redis(t), "THREADHUB_TIMEOUTS__LEASE=" + lease.String()},
	})
	t.Cleanup(rig.CloseIdle)
	first, second := house.Serve(), house.Serve()
	s := house.Seed("north", "ann@north.example", "admin")
	first.ProviderKeys(t, s)

	conn, err := net.Dial("tcp", first.Host())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	body := `{"model":"openai/gpt-4.1-mini","stream":true,"messages":[{"role":"user","content":"[[sim delay=50ms chunks=400 size=12000]] go on"}]}`
	fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nX-Thread-Id: told\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		s.Key, len(body), body)
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: "POST"})
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	defer func() { _ = resp.Body.Close() }()
	time.AfterFunc(4*time.Second, first.Kill)
	var seen []event
	eventsOf(bufio.NewScanner(resp.Body), func(e event) { seen = append(seen, e) })
	death := time.Now()
	<-first.Ended()
	var all, early strings.Builder
	for i, e := range seen {
		if e.n != i+1 || e.code != "" {
			t.Fatalf("event %d is %+v", i+1, e)
		}
		all.WriteString(e.text)
		if death.Sub(e.at) > 2*time.Second {
			early.WriteString(e.text)
		}
	}

	rest := second.Must(t, 200, "GET", fmt.Sprintf("/v1/requests/%s/stream?starting_after=%d", resp.Header.Get("X-Request-Id"), len(seen)), s.Key, nil)
	last, next := event{}, len(seen)
	eventsOf(bufio.NewScanner(strings.NewReader(string(rest.Body))), func(e event) {
		if next++; e.n != next || last.code != "" {
			t.Errorf("event %d of the rest is %+v", next, e)
		}
		last = e
		all.WriteString(e.text)
	})
	if last.code != "gateway_lost" {
		t.Errorf("the rest ends in %+v", last)
	}

	var thread struct {
		Messages []struct {
			Content, Status string
			Reason          string `json:"incomplete_reason"`
		}
	}
	if err := second.Must(t, 200, "GET", "/api/threads/told", s.Key, nil).JSON(&thread); err != nil {
		t.Fatal(err)
	}
	if len(thread.Messages) != 2 || thread.Messages[1].Status != "incomplete" || thread.Messages[1].Reason != "gateway_lost" {
		t.Fatalf("the thread reads %+v", thread.Messages)
	}
	stored := thread.Messages[1].Content
	if early.Len() == 0 || !strings.HasPrefix(all.String(), stored) || !strings.HasPrefix(stored, early.String()) {
		t.Errorf("%d bytes are stored, %d were seen, %d of them long before: %.200q", len(stored), all.Len(), early.Len(), stored)
	}
}
