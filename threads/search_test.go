package threads_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/threads"
)

func TestSearch(t *testing.T) {
	eachStore(t, func(t *testing.T, h *house) {
		mate := threads.Viewer{User: "usr_2"}
		h.create(org, threads.Spec{Title: "Invoices", Description: "of the year 2026"})
		apples := h.create(org, threads.Spec{Title: "apples"})
		h.say(org, apples.ID, "The green apple's price", "and its Größe")
		h.say(org, apples.ID, "日本語 のテスト")
		private := h.create(org, threads.Spec{Title: "private-apples", Visibility: "private"})
		h.say(org, private.ID, "a secret apple")
		gone := h.create(org, threads.Spec{Title: "gone-apples"})
		h.say(org, gone.ID, "a rotten apple")
		h.remove(org, gone.ID)
		foreign := h.create("org_b", threads.Spec{Title: "foreign-apples"})
		h.say("org_b", foreign.ID, "a foreign apple")

		for q, want := range map[string]string{
			"apple":           "apples",
			"APPL":            "apples",
			"pple":            "", // words are found by their beginning
			"price green":     "apples",
			"green größe":     "", // in two messages
			"gro":             "", // ö is not o
			"GRÖSSE":          "",
			"Größ":            "apples",
			"invoice":         "Invoices",
			"year inv":        "Invoices", // title and description together
			"invoice price":   "",
			"2026":            "Invoices",
			"20":              "Invoices",
			"日本":              "apples",
			"テ 語":             "apples",
			"日 犬":             "",
			"secret":          "",
			"rotten":          "",
			"foreign":         "",
			"%":               "",
			"price'; DROP --": "",
		} {
			if len(threads.Words(q)) == 0 {
				continue
			}
			if got := h.found(org, mate, q); got != want {
				t.Errorf("%q finds %q, want %q", q, got, want)
			}
		}
		if got := h.found(org, threads.Viewer{User: "usr_1"}, "apple"); got != "private-apples apples" {
			t.Errorf("the user of the private one finds %q", got)
		}
		if got := h.found(org, everybody, "secret apple"); got != "private-apples" {
			t.Errorf("an admin finds %q", got)
		}
		if got := h.found("org_b", everybody, "apple"); got != "foreign-apples" {
			t.Errorf("the other org finds %q", got)
		}
	})
}

// An answer is found by what it says and by what it refuses, however it ended.
func TestAnswersAreFound(t *testing.T) {
	eachStore(t, func(t *testing.T, h *house) {
		for i, raw := range []string{
			`{"role":"assistant","content":"zebra one"}`,
			`{"role":"assistant","content":null,"refusal":"no zebra"}`,
			`{"role":"assistant","content":[{"type":"text","text":"parted"},{"type":"refusal","refusal":"zebra"}]}`,
			`{"role":"assistant","content":"a zeb\u0072a \u0000 escaped"}`,
			`{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"zebra","arguments":"{}"}}]}`,
			threads.EmptyAnswer,
		} {
			th := h.create(org, threads.Spec{Title: fmt.Sprint("t", i)})
			o, _ := h.unit(org, th.ID, false, said("user", "hello"))
			o.AtOnce = false
			u := &db.Unit{Org: org}
			h.calls.Open(u, o)
			m := said("user", "hello")
			m.After(nil)
			h.Append(u, &threads.Input{Org: org, Thread: th.ID, Call: o.ID, User: "usr_1", PrevSeq: -1, PrevChain: []byte{}, Messages: []threads.Message{m}})
			h.commit(u)
			u = &db.Unit{Org: org, Record: true}
			h.calls.Close(u, &calls.Closing{Org: org, ID: o.ID, RecordID: string(o.ID), Outcome: calls.Complete})
			h.Answer(u, &threads.Answer{Org: org, Call: o.ID, Message: threads.NewAnswer([]byte(raw), threads.Incomplete, "cut", m.Chain, threads.Provenance{})})
			h.commit(u)
		}
		if got := h.found(org, everybody, "zebra"); got != "t3 t2 t1 t0" {
			t.Errorf("zebra finds %q", got)
		}
	})
}

func TestSearchPages(t *testing.T) {
	eachStore(t, func(t *testing.T, h *house) {
		var want []id.Thread
		for range 7 {
			th := h.create(org, threads.Spec{Title: "page"})
			want = append([]id.Thread{th.ID}, want...)
			h.create(org, threads.Spec{Title: "other"})
		}
		var got []id.Thread
		var after threads.Cursor
		for {
			list, err := h.Search(t.Context(), org, everybody, []string{"pag"}, after, 3)
			if err != nil {
				t.Fatal(err)
			}
			for _, th := range list {
				got = append(got, th.ID)
				after = threads.Cursor{CreatedAt: th.CreatedAt, Thread: th.ID}
			}
			if len(list) < 3 {
				break
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

// Whatever is asked for, it is words or nothing: never an error of the store's.
func TestHostileSearches(t *testing.T) {
	eachStore(t, func(t *testing.T, h *house) {
		h.say(org, h.create(org, threads.Spec{Title: "t"}).ID, "x or and not near 'a' \"b\"")
		for _, q := range []string{
			`a'b`, `a\b`, `a"b`, `a\'b`, `a:*`, `a & b | !c <-> d`, `a OR b`, `NEAR(a b)`, `words:a`, `^a`, `a*`, "a\x00b", "a\xff", `{a} + b - c`,
			`AND`, `NOT`, `a%`, `a_`, `''''`, `\\a`, `$1 a`, "a\u2028b", "😀a", strings.Repeat("a", 10<<10), strings.Repeat("漢", 16), strings.Repeat("é", 64),
			"ﷺ", "İ", "ᵃ", "\U00010400",
		} {
			if words, err := threads.SearchWords(q); err == nil {
				if _, err := h.Search(t.Context(), org, everybody, words, threads.Cursor{}, 10); err != nil {
					t.Errorf("%.40q: %v", q, err)
				}
			}
		}
		if got := h.found(org, everybody, "OR not NEAR"); got != "t" {
			t.Errorf("operators as words find %q", got)
		}
	})
}

// Every text can be stored with its words, and is found by each of the first of them.
func TestAnyTextCanBeIndexed(t *testing.T) {
	eachStore(t, func(t *testing.T, h *house) {
		for i, text := range []string{
			strings.Repeat("漢字", 3) + "\\'\"&|!:*()<->", strings.Repeat("x", 1<<18), "a\u0000b", "\ufeff\u200d 😀 é́́́́ ﷺ",
			func() string {
				var b strings.Builder
				for i := range 2000 {
					fmt.Fprintf(&b, "w%d%s ", i, strings.Repeat("\U00010400", 62))
				}
				return b.String()
			}(),
		} {
			th := h.create(org, threads.Spec{Title: fmt.Sprint("t", i)})
			h.say(org, th.ID, text)
			for _, w := range threads.Words(text)[:min(3, len(threads.Words(text)))] {
				if got := h.found(org, everybody, w); !strings.Contains(got, th.Title) {
					t.Errorf("%d: %q finds %q", i, w, got)
				}
			}
		}
	})
}

// The search can use its index, from where row-level security lets it.
func TestSearchUsesItsIndex(t *testing.T) {
	eachStore(t, func(t *testing.T, h *house) {
		for i := range 10 {
			th := h.create(org, threads.Spec{Title: "t"})
			texts := make([]string, 200)
			for j := range texts {
				texts[j] = fmt.Sprintf("word%d common text", i*200+j)
			}
			h.say(org, th.ID, texts...)
		}
		plan := h.plan(t, []string{"word123"})
		want := map[db.Dialect]string{db.Postgres: "messages_words", db.SQLite: "messages_words"}[h.db.Dialect()]
		if !strings.Contains(plan, want) {
			t.Errorf("the plan does not use %s:\n%s", want, plan)
		}
		if got := h.found(org, everybody, "word1999 comm"); got != "t" {
			t.Errorf("found %q", got)
		}
	})
}

// plan is how the store would search.
func (h *house) plan(t *testing.T, words []string) string {
	t.Helper()
	sql, args := threads.SearchSQL(h.db.Dialect(), org, everybody, words, threads.Cursor{}, 10)
	var lines []string
	if h.db.Dialect() == db.Postgres {
		conn, err := pgx.Connect(t.Context(), h.url)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), "ANALYZE"); err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	err := h.db.Search(t.Context(), org, threads.TSQuery(words), func(tx db.Tx) error {
		explain := "EXPLAIN QUERY PLAN "
		if tx.Dialect() == db.Postgres {
			if _, err := tx.Exec(t.Context(), "SET LOCAL enable_seqscan = off"); err != nil {
				return err
			}
			explain = "EXPLAIN "
		}
		return tx.Query(t.Context(), explain+sql, args, func(row db.Row) error {
			var line string
			var n [3]int
			dest := []any{&line}
			if tx.Dialect() == db.SQLite {
				dest = []any{&n[0], &n[1], &n[2], &line}
			}
			err := row.Scan(dest...)
			lines = append(lines, line)
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}
