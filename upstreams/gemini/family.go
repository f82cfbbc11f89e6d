package gemini

import (
	"net/url"
	"strings"

	"threadhub/upstreams"
)

// Family names the models that understand each other's signatures.
func Family(model string) string { return upstreams.GoogleFamily(strings.TrimPrefix(model, "models/")) }

// traits are what a request must know of its model.
type traits struct {
	id    string // without models/
	old   bool   // of Gemini 1 or 2: budgets instead of levels, no tools beside a schema, signatures as it likes
	gemma bool   // takes no system instruction and no signatures
}

// traitsOf goes by the name. A generation that is not known yet is taken for one like the newest.
func traitsOf(model string) traits {
	t := traits{id: strings.TrimPrefix(model, "models/")}
	switch Family(model) {
	case "gemini-1", "gemini-2":
		t.old = true
	case "gemma":
		t.gemma = true
	}
	return t
}

// demands reports whether the model refuses a call of a function that comes back without a signature.
func (m traits) demands() bool { return upstreams.GoogleDemands(Family(m.id)) }

// penalises reports whether the model takes penalties; Gemini 2.5 refuses the whole request for them.
func (m traits) penalises() bool { return !strings.HasPrefix(m.id, "gemini-2.5") }

// address is where the model is asked, below the base URL. Whatever the name holds, it stays one segment, and the method
// ours.
func address(model, method string) string {
	id := url.PathEscape(strings.TrimPrefix(model, "models/"))
	return "models/" + strings.ReplaceAll(id, ":", "%3A") + ":" + method
}

// efforts are the words for how hard to think, from nothing up.
var efforts = []string{"none", "minimal", "low", "medium", "high", "xhigh", "max"}

// budgets are tokens of thought for each of efforts (Google's compatible endpoint for low, medium and high).
var (
	budgets    = []string{"0", "512", "1024", "8192", "24576", "24576", "24576"}
	budgetsPro = []string{"128", "512", "1024", "8192", "24576", "32768", "32768"} // cannot be off
)

// levels are what a model that thinks by level takes, the first line that fits its name.
var levels = []struct {
	prefix string
	levels []string
}{
	{"gemini-3-pro", []string{"low", "high"}},
	{"gemini-3-flash", []string{"minimal", "low", "medium", "high"}},
	{"gemini-3.1-flash-lite", []string{"minimal", "low", "medium", "high"}},
	{"gemini-3.5-flash", []string{"minimal", "low", "medium", "high"}},
	{"gemini-3.6-flash", []string{"minimal", "low", "medium", "high"}},
	{"gemini-4-hydrogen", []string{"low", "medium", "high", "xhigh"}},
	{"gemma", []string{"minimal", "high"}},
	{"", []string{"low", "medium", "high"}},
}

// think returns the member of thinkingConfig that says effort, an index of efforts, and its value as JSON. less says that
// the model thinks although it was asked not to.
func (m traits) think(effort int) (member, value string, less bool) {
	if m.old {
		if strings.HasPrefix(m.id, "gemini-2.5-pro") {
			return "thinkingBudget", budgetsPro[effort], effort == 0
		}
		return "thinkingBudget", budgets[effort], false
	}
	return "thinkingLevel", `"` + m.level(effort) + `"`, effort == 0
}

// level is the least of the model's levels that is not below effort, or its highest.
func (m traits) level(effort int) string {
	for _, known := range levels {
		if !strings.HasPrefix(m.id, known.prefix) {
			continue
		}
		for _, level := range known.levels {
			if rank(level) >= effort {
				return level
			}
		}
		return known.levels[len(known.levels)-1]
	}
	return ""
}

// rank is the place of effort in efforts; -1 if it is no such word.
func rank(effort string) int {
	for i, e := range efforts {
		if e == effort {
			return i
		}
	}
	return -1
}
