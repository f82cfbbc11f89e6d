package threads_test

import (
	"testing"

	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/threads"
)

func TestChange(t *testing.T) {
	eachStore(t, func(t *testing.T, h *house) {
		th := h.create(org, threads.Spec{Title: "old", Description: "words"})
		mate, owner := threads.Viewer{User: "usr_2"}, threads.Viewer{User: "usr_1"}
		change := func(who threads.Viewer, c threads.Change) (*threads.Thread, error) {
			return h.Change(t.Context(), org, th.ID, who, c)
		}
		got, err := change(mate, threads.Change{Title: new("new"), WindowPolicy: new(threads.Refuse)})
		if err != nil || got.Title != "new" || got.Description != "words" || got.WindowPolicy != threads.Refuse || got.Visibility != "org" {
			t.Errorf("a mate's change: %+v, %v", got, err)
		}
		if s := h.found(org, mate, "new words"); s != "new" {
			t.Errorf("by its new title: %q", s)
		}
		if s := h.found(org, mate, "old"); s != "" {
			t.Errorf("by its old title: %q", s)
		}
		if _, err := change(mate, threads.Change{Title: new("x"), Visibility: new("private")}); !fault.Is(err, fault.Denied) {
			t.Errorf("a mate hides it: %v", err)
		}
		if got, err := change(owner, threads.Change{Visibility: new("private"), WindowPolicy: new(threads.Policy(""))}); err != nil || got.Visibility != "private" || got.WindowPolicy != "" || got.Title != "new" {
			t.Errorf("its user hides it: %+v, %v", got, err)
		}
		if _, err := change(mate, threads.Change{Title: new("x")}); !fault.Is(err, fault.NotFound) {
			t.Errorf("a mate changes what is private: %v", err)
		}
		if got, err := change(everybody, threads.Change{Visibility: new("org")}); err != nil || got.Visibility != "org" {
			t.Errorf("an admin shows it: %+v, %v", got, err)
		}
		if got, err := change(owner, threads.Change{}); err != nil || got.Title != "new" || !got.CreatedAt.Equal(th.CreatedAt) {
			t.Errorf("no change: %+v, %v", got, err)
		}
		if _, err := h.Change(t.Context(), "org_b", th.ID, everybody, threads.Change{Title: new("x")}); !fault.Is(err, fault.NotFound) {
			t.Errorf("another org changes it: %v", err)
		}
		h.remove(org, th.ID)
		if _, err := change(everybody, threads.Change{Title: new("x")}); !fault.Is(err, fault.NotFound) {
			t.Errorf("a change of what is deleted: %v", err)
		}
	})
}

func TestPage(t *testing.T) {
	eachStore(t, func(t *testing.T, h *house) {
		th := h.create(org, threads.Spec{Title: "t"})
		for range 3 {
			h.say(org, th.ID, "a", "b", "c")
		}
		var seqs []int
		for after, more := -1, true; more; {
			p, err := h.Page(t.Context(), org, th.ID, everybody, after, 2)
			if err != nil || len(p.Messages) == 0 || p.Thread.ID != th.ID {
				t.Fatalf("after %d: %+v, %v", after, p, err)
			}
			for _, m := range p.Messages {
				seqs = append(seqs, m.Seq)
			}
			more, after = p.More, seqs[len(seqs)-1]
		}
		for i, seq := range seqs {
			if i != seq || len(seqs) != 9 {
				t.Fatalf("the pages hold %v", seqs)
			}
		}
		if p, err := h.Page(t.Context(), org, th.ID, everybody, 8, 10); err != nil || len(p.Messages) != 0 || p.More {
			t.Errorf("after the end: %+v, %v", p, err)
		}
		for _, who := range []struct {
			org    id.Org
			thread id.Thread
			threads.Viewer
		}{{"org_b", th.ID, everybody}, {org, "absent", everybody}, {org, h.create(org, threads.Spec{Visibility: "private"}).ID, threads.Viewer{User: "usr_2"}}} {
			if _, err := h.Page(t.Context(), who.org, who.thread, who.Viewer, -1, 10); !fault.Is(err, fault.NotFound) {
				t.Errorf("%v: %v", who, err)
			}
		}
	})
}
