package gateway

import (
	"bytes"
	"log/slog"

	"threadhub/calls"
	"threadhub/internal/sse"
	"threadhub/openai"
)

// kept is the checkpoint of one stream: what the client is given is written there first. The zero kept keeps nothing, as
// does one that failed: an answer that can be given is worth more than the promise for the case that we die.
type kept struct {
	at  *calls.Checkpoint
	log *slog.Logger
}

// keep begins the checkpoint of a stream whose answer a thread waits for.
func (r *relay) keep() {
	if r.e.thread == "" {
		return
	}
	at, err := r.g.opts.Checkpoints.Begin(r.e.id)
	if err != nil {
		r.g.opts.Log.Warn("a stream goes on without a checkpoint", "request_id", r.e.id, "error", err)
	}
	r.kept = kept{at, r.g.opts.Log}
}

func (k *kept) add(events []byte) {
	if len(events) == 0 || k.at == nil {
		return
	}
	if err := k.at.Add(events); err != nil {
		k.log.Warn("a stream goes on without its checkpoint", "error", err)
		_ = k.at.Done()
		k.at = nil
	}
}

func (k *kept) close(recorded bool) {
	end := k.at.Keep
	if recorded {
		end = k.at.Done
	}
	if err := end(); err != nil {
		k.log.Warn("a checkpoint could not be closed", "error", err)
	}
}

// brought is what the events of a checkpoint make together. What cannot be read any more is left out.
func brought(events []byte) *openai.Accumulator {
	got := new(openai.Accumulator)
	for r := sse.NewReader(bytes.NewReader(events), maxAnswer); ; {
		e, err := r.Next()
		if err != nil || e.Unterminated {
			return got
		}
		if _, err := got.Add(e.Data); err != nil {
			return got
		}
	}
}
