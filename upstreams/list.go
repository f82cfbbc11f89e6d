package upstreams

import (
	"cmp"
	"context"
	"math"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/internal/seal"
)

// Bounds of what is taken of a provider's list.
const (
	maxListed   = 5000 // models
	maxPages    = 10
	maxModel    = 200  // bytes of a model's name
	maxToken    = 1024 // bytes of what names the next page
	maxKinds    = 8    // kinds of content that a model reads, or writes
	maxKindName = 16   // bytes
)

// List says how a provider tells which models there are for a key.
type List struct {
	// Paths are lists, each asked for with its query. The first must be had; what others add may be missing.
	Paths  []string
	Member string // of an answer: the list; "" is data
	Next   string // of an answer: what names the next page, for the query's pageToken; "": there is one page

	// Read is what an entry tells of its model; false for one that is not for chats or embeddings. nil: as OpenAI's.
	Read func(entry gjson.Result) (Model, bool)
}

// Model is a model as its provider lists it. What is not told is zero, or nil.
type Model struct {
	ID        string // the provider's own name for it
	Created   int64  // Unix seconds
	Shutdown  string // the date after which it is gone, "2026-12-31"
	Window    int64  // most tokens in and out together, or in
	MaxOutput int64  // most tokens out

	Input, Output []string // kinds of content: text, image, audio, file, …

	Chat, Embeddings, Tools, Reasoning *bool
}

// List is Lister's.
func (c *Client) List(ctx context.Context, key seal.Secret) ([]Model, error) {
	all := found{names: map[string]bool{}}
	for i, path := range c.dialect.List.Paths {
		if err := c.listed(ctx, path, key, &all); err != nil && i == 0 {
			return nil, err
		}
	}
	return all.models, nil
}

// found are the models that lists tell of, each of them once.
type found struct {
	models []Model
	names  map[string]bool
}

// add adds m, if there is room for it: it reports whether there was.
func (f *found) add(m Model) bool {
	if len(f.models) == maxListed {
		return false
	}
	if !f.names[m.ID] {
		f.names[m.ID] = true
		f.models = append(f.models, m)
	}
	return true
}

// listed reads one list, page by page.
func (c *Client) listed(ctx context.Context, path string, key seal.Secret, all *found) error {
	list := c.dialect.List
	page := path
	for range maxPages {
		k, body, err := c.get(ctx, page, key)
		if err != nil {
			return k.failed(err)
		}
		root := gjson.ParseBytes(body)
		entries := root.Get(cmp.Or(list.Member, "data"))
		if !entries.IsArray() && (entries.Exists() || list.Next == "") { // Google leaves out a list that is empty
			return k.failed(c.fault(fault.Upstream, nil, "upstream_protocol", "answered with something that is no list of models"))
		}
		room := true
		entries.ForEach(func(_, entry gjson.Result) bool {
			if m, ok := list.read(entry); ok && isModel(m.ID) && mask(m.ID, k.key) == m.ID {
				room = all.add(m)
			}
			return room
		})
		next := ""
		if list.Next != "" {
			next = root.Get(list.Next).Str
		}
		if next == "" || len(next) > maxToken || !room {
			return nil
		}
		separator := "?"
		if strings.Contains(path, "?") {
			separator = "&"
		}
		page = path + separator + "pageToken=" + url.QueryEscape(next)
	}
	return nil
}

func (l List) read(entry gjson.Result) (Model, bool) {
	if l.Read != nil {
		return l.Read(entry)
	}
	return Model{ID: entry.Get("id").Str, Created: Count(entry.Get("created")), Shutdown: Date(entry.Get("shutdown_date"))}, true
}

// get returns what stands at path for whoever has the key. The call has ended.
func (c *Client) get(ctx context.Context, path string, key seal.Secret) (*call, []byte, error) {
	k := c.begin(ctx, key, c.fresh, c.options.HeaderTimeout, min(c.options.MaxBody, testBody))
	defer k.end(nil)
	request, err := k.request(http.MethodGet, path, nil)
	if err != nil {
		return k, nil, err
	}
	answer, err := k.do(request, nil)
	if err != nil {
		return k, nil, err
	}
	return k, answer.Body, nil
}

// isModel reports whether name is one that a model may have, and that can stand in a URL, a log and a page as it is.
func isModel(name string) bool {
	if name == "" || len(name) > maxModel {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.:/@~+", c) >= 0) {
			return false
		}
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

// Count is a number of tokens or seconds that a provider tells: 0 for what is none.
func Count(v gjson.Result) int64 {
	const most = 1 << 40
	if v.Type != gjson.Number || !(v.Num > 0 && v.Num <= most) {
		return 0
	}
	return int64(math.Trunc(v.Num))
}

// Date is the day that a provider tells, alone or with the time: "" for what is none.
func Date(v gjson.Result) string {
	day, _, _ := strings.Cut(v.Str, "T")
	if _, err := time.Parse(time.DateOnly, day); err != nil {
		return ""
	}
	return day
}

// Kinds are kinds of content that a provider tells: those that are words.
func Kinds(list gjson.Result) (kinds []string) {
	if !list.IsArray() {
		return nil
	}
	list.ForEach(func(_, v gjson.Result) bool {
		if word := strings.Trim(v.Str, "abcdefghijklmnopqrstuvwxyz_") == ""; word && v.Str != "" && len(v.Str) <= maxKindName {
			kinds = append(kinds, v.Str)
		}
		return len(kinds) < maxKinds
	})
	return kinds
}
