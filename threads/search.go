package threads

import (
	"context"
	"fmt"
	"strings"

	"threadhub/internal/db"
	"threadhub/internal/id"
)

// Search returns up to limit threads that who may see and that match words, newest made first, from after on. A thread
// matches when each of words begins some word of its title and description, or when one of its messages has, for each of
// words, a word that begins with it. words are of SearchWords.
func (s *Store) Search(ctx context.Context, org id.Org, who Viewer, words []string, after Cursor, limit int) ([]*Thread, error) {
	var found []id.Thread
	sql, args := searchSQL(s.db.Dialect(), org, who, words, after, limit)
	err := s.db.Search(ctx, org, tsquery(ofOrg(org, words)), func(tx db.Tx) error {
		found = nil
		return tx.Query(ctx, sql, args, func(row db.Row) error {
			var thread id.Thread
			err := row.Scan(&thread)
			found = append(found, thread)
			return err
		})
	})
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return s.named(ctx, org, who, found)
}

// searchSQL asks for the ids of the threads that match. In Postgres whoever searches sees only messages that match: the
// words are looked for by the policy, as only there the index can be used.
func searchSQL(d db.Dialect, org id.Org, who Viewer, words []string, after Cursor, limit int) (sql string, args []any) {
	arg := func(v any) string {
		args = append(args, v)
		return fmt.Sprintf("$%d", len(args))
	}
	matching := `SELECT m.thread_id FROM messages m WHERE m.org_id = ` + arg(org)
	if d == db.SQLite { // CROSS: from the index to the messages, and not the other way
		matching = `SELECT m.thread_id FROM message_words CROSS JOIN messages m ON m.words = message_words.rowid
  WHERE m.org_id = $1 AND message_words MATCH ` + arg(ftsQuery(ofOrg(org, words)))
	}
	sql = `SELECT t.thread_id FROM threads t
WHERE t.org_id = $1 AND t.deleted_at IS NULL AND (t.visibility = 'org' OR t.user_id = ` + arg(who.User) + ` OR ` + arg(who.Admin) + `)`
	titled := make([]string, len(words))
	for i, w := range words {
		titled[i] = `t.words LIKE ` + arg("% "+w+"%")
	}
	sql += ` AND (` + strings.Join(titled, " AND ") + ` OR t.thread_id IN (` + matching + `))`
	if after.Thread != "" {
		sql += ` AND (t.created_at, t.thread_id) < (` + arg(db.At(d, after.CreatedAt)) + `, ` + arg(after.Thread) + `)`
	}
	return sql + ` ORDER BY t.created_at DESC, t.thread_id DESC LIMIT ` + arg(limit), args
}

// named returns those of the threads of these names that who may still see, in their order.
func (s *Store) named(ctx context.Context, org id.Org, who Viewer, names []id.Thread) ([]*Thread, error) {
	args := []any{org}
	places := make([]string, len(names))
	for i, name := range names {
		args = append(args, name)
		places[i] = fmt.Sprintf("$%d", len(args))
	}
	found := map[id.Thread]*Thread{}
	err := s.db.Query(ctx, org, db.Query{
		SQL:  `SELECT ` + threadColumns + ` FROM threads t WHERE t.org_id = $1 AND t.thread_id IN (` + strings.Join(places, ", ") + `)`,
		Args: args,
		Each: func(row db.Row) error {
			t, err := scanThread(row)
			if err == nil && who.sees(t) {
				found[t.ID] = t
			}
			return err
		},
	})
	var list []*Thread
	for _, name := range names {
		if t := found[name]; t != nil {
			list = append(list, t)
		}
	}
	return list, err
}
