package gateway

import (
	"slices"
	"testing"

	"threadhub/internal/id"
)

// An answer that says why it ended is one though it holds no word: its prompt was filtered, or the model thought until it
// had no room left.
func TestAnswersWithoutAWord(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		for thread, more := range map[id.Thread]string{"whole": "", "streamed": `,"stream":true`} {
			r := h.chat(`[[sim text="" finish=content_filter]]`, more, "X-Thread-Id", string(thread)).want(t, 200)
			if e := events(r.body); more != "" && !slices.Contains(e, "[DONE]") {
				t.Errorf("%s: it ended in %s", thread, e[len(e)-1])
			}
			if c := h.call(r); c["status"] != "complete" || c["finish_reason"] != "content_filter" {
				t.Errorf("%s: the call reads %v", thread, c)
			}
			if m := h.messages(thread); len(m) != 2 || m[1] != "assistant::complete" {
				t.Errorf("%s: the thread reads %q", thread, m)
			}
		}
	})
}
