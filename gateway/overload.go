package gateway

import (
	"cmp"
	"slices"
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// What is decided when there is too much to do. Nothing here does anything: loads.go asks, and acts.

// stage says how near its limit the gateway's memory is. At each one also holds what holds at those before it.
type stage int32

const (
	calm  stage = iota
	tight       // the orgs that hold the most begin no streams, and connections are not kept
	short       // nobody begins a call, and no large body is taken
	dire        // the streams that hold the most are ended
)

// stageFrom is where each begins, in hundredths of the limit. It ends stageSlack below that, so that memory that moves
// about one of them does not move the stage.
var stageFrom = [...]int64{tight: 85, short: 92, dire: 97}

const stageSlack = 2

// next is the stage that follows s when so much memory is used.
func (s stage) next(used, limit int64) stage {
	if limit <= 0 {
		return calm
	}
	for n := dire; n > calm; n-- {
		from := stageFrom[n]
		if s >= n {
			from -= stageSlack
		}
		if used >= limit/100*from {
			return n
		}
	}
	return calm
}

// excess is what must be let go of for the stage short to end.
func excess(used, limit int64) int64 { return used - limit/100*(stageFrom[short]-stageSlack) }

// standing is how things are when an org asks for another call.
type standing struct {
	stage  stage
	most   int  // calls that may be under way
	calls  int  // that are, of all orgs
	orgs   int  // that have some of them
	own    int  // of the org that asks
	heavy  bool // it is one of those that hold the most memory
	stream bool // it asks for a stream
}

// crowdedFrom is the part of most, in hundredths, up to which anybody may have all calls there are.
const crowdedFrom = 80

// share is how many calls an org may have where they are few: an equal part for each org that has some, for the one that
// asks, and for one that may come. So whoever has none finds room until every place is taken, and the places of those
// that have more than their share go to others as they become free.
func (s standing) share() int {
	orgs := s.orgs
	if s.own == 0 {
		orgs++
	}
	return max(1, s.most/(orgs+1))
}

// refuse is nil if the call may begin. Otherwise it says why not, as a client is told, and as it is counted.
func (s standing) refuse() (*fault.Error, refusalReason) {
	switch {
	case s.stage >= short:
		return overloaded("the gateway is short of memory"), shortOfMemory
	case s.stage >= tight && s.stream && s.heavy:
		return overloaded("the gateway is short of memory, and this organisation's calls hold much of it"), heavyOrg
	case s.calls >= s.most:
		return overloaded("the gateway has as many calls under way as it takes"), noPlace
	case s.calls*100 >= s.most*crowdedFrom && s.own >= s.share():
		return overloaded("the gateway has few places left, and this organisation has its share of them"), overShare
	}
	return nil, ""
}

// refusalReason is the label by which refusals are counted.
type refusalReason string

const (
	shortOfMemory refusalReason = "memory"
	heavyOrg      refusalReason = "heavy"
	noPlace       refusalReason = "calls"
	overShare     refusalReason = "share"
)

func overloaded(why string) *fault.Error {
	return fault.New(fault.Unavailable, "%s; try again in a moment", why).WithCode("overloaded").After(time.Second)
}

// heaviest are the orgs that hold an equal part or more of what all of them hold.
func heaviest(held map[id.Org]int64) map[id.Org]bool {
	var all int64
	for _, n := range held {
		all += n
	}
	heavy := map[id.Org]bool{}
	for org, n := range held {
		if n > 0 && n >= all/int64(len(held)) {
			heavy[org] = true
		}
	}
	return heavy
}

// holding is what one stream holds.
type holding[S any] struct {
	stream S
	bytes  int64
}

// largest are the streams that hold the most: as few as hold excess bytes together, but one at least. Those that hold
// nothing are not among them.
func largest[S any](streams []holding[S], excess int64) (chosen []S) {
	slices.SortFunc(streams, func(a, b holding[S]) int { return cmp.Compare(b.bytes, a.bytes) })
	for _, s := range streams {
		if s.bytes == 0 || len(chosen) > 0 && excess <= 0 {
			break
		}
		chosen = append(chosen, s.stream)
		excess -= s.bytes
	}
	return chosen
}
