package config

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// Problems is everything wrong with what an operator wrote, a sentence each.
type Problems struct{ Sentences []string }

// maxProblems is how many sentences somebody will read.
const maxProblems = 25

func (p *Problems) addf(format string, args ...any) {
	p.Sentences = append(p.Sentences, fmt.Sprintf(format, args...))
}

func (p *Problems) err() error {
	if len(p.Sentences) == 0 {
		return nil
	}
	slices.Sort(p.Sentences)
	return p
}

func (p *Problems) Error() string {
	if len(p.Sentences) == 1 {
		return p.Sentences[0]
	}
	lines := p.Sentences
	var more string
	if n := len(lines) - maxProblems; n > 0 {
		lines, more = lines[:maxProblems], fmt.Sprintf("\n  and %d more", n)
	}
	return fmt.Sprintf("%d settings are wrong:\n  %s%s", len(p.Sentences), strings.Join(lines, "\n  "), more)
}

// check judges what the settings mean together. names tells how each one was written.
func (c *Config) check(names map[string]string, samples bool, p *Problems) {
	called := func(path string) string {
		if name, ok := names[path]; ok {
			return name
		}
		return path
	}
	if !samples {
		for i, key := range strings.Split(c.EncryptionKey.Reveal(), ",") {
			if isSample(key) {
				p.addf("%s has a key that everybody can know as key %d of the list. Make your own with: openssl rand -base64 32 | tr '+/' '-_'",
					called("encryption_key"), i+1)
			}
		}
		if c.SecretKey.Reveal() == sampleSecretKey {
			p.addf("%s is the sample of example.yaml, which everybody can read. Make your own with: openssl rand -base64 48", called("secret_key"))
		}
	}
	if c.Listen == c.OperatorListen && !strings.HasSuffix(c.Listen, ":0") {
		p.addf("%s and %s are both %s: metrics must not be where strangers are", called("listen"), called("operator_listen"), shown(c.Listen))
	}
	if c.Timeouts.DrainAccept > c.Timeouts.Drain {
		p.addf("%s is %s, longer than %s with %s, of which it is a part", called("timeouts.drain_accept"), brief(c.Timeouts.DrainAccept),
			called("timeouts.drain"), brief(c.Timeouts.Drain))
	}
	if _, sqlite := c.SQLiteFile(); sqlite && !c.MigrateDatabaseURL.Empty() {
		p.addf("%s is for Postgres, but %s is SQLite", called("migrate_database_url"), called("database_url"))
	}
	if u, err := url.Parse(c.RedisURL.Reveal()); err == nil && c.RedisIsCluster() && strings.Trim(u.Path, "/0") != "" {
		p.addf("%s names a database, but a Redis Cluster has none but 0", called("redis_url"))
	}
}

// isSample reports whether an encryption key is the one of example.yaml, or all zero.
func isSample(key string) bool {
	key = strings.TrimRight(strings.TrimSpace(key), "=")
	return key == strings.TrimRight(sampleEncryptionKey, "=") || key != "" && strings.Trim(key, "A") == ""
}

// shown is text as it may stand in a sentence: quoted when it is not a plain word, and not longer than a line.
func shown(text string) string {
	const most = 80
	if len(text) > most {
		end := most
		for end > 0 && !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end] + "…"
	}
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return notGraphic(r) || r == '"' }) {
		return fmt.Sprintf("%q", text)
	}
	return text
}

func suggestion(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "; did you mean " + either(names, "%s") + "?"
}

// near returns up to three of known that somebody who wrote name may have meant, nearest first: names that are written
// much alike, with or without prefix, and names whose last part it is.
func near(name string, known []string, prefix string) []string {
	const most = 3
	if len(name) > 200 {
		return nil
	}
	short := strings.TrimPrefix(name, prefix)
	type match struct {
		name string
		far  int
	}
	var found []match
	for _, k := range known {
		far := min(distance(name, k), distance(short, k))
		if strings.HasSuffix(k, "."+short) || strings.HasSuffix(k, "__"+short) {
			far = min(far, 2)
		}
		if far <= max(2, len(k)/4) {
			found = append(found, match{k, far})
		}
	}
	slices.SortStableFunc(found, func(a, b match) int { return cmp.Compare(a.far, b.far) })
	var names []string
	for _, m := range found[:min(len(found), most)] {
		names = append(names, m.name)
	}
	return names
}

// distance is how many bytes must be put in, taken out or replaced to get from a to b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
