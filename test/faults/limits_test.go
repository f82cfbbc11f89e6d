package faults

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"threadhub/test/kills"
	"threadhub/test/rig"
)

// allowance is a limit of the row's org on a model that nothing else of the row asks.
type allowance struct {
	*world
	most  int       // a minute
	began time.Time // of the first that was let in
	let   int
}

const limitedModel = "gpt-4.1"

// limit sets one of most requests a minute, of which every gateway knows when it returns.
func (w *world) limit(most int) *allowance {
	w.Helper()
	r, err := w.g[0].Do(context.Background(), "PUT", "/api/limits", w.who.Key, map[string]any{"scope": "org", "model": limitedModel, "requests_per_minute": most})
	w.must(err)
	if r.Status != 200 {
		w.Fatalf("setting a limit: %d %s", r.Status, r.Body)
	}
	return &allowance{world: w, most: most}
}

// ask asks n times, of each gateway in its turn, and counts who is let in. Nobody is refused but by the limit.
func (l *allowance) ask(n int) {
	l.Helper()
	for i := range n {
		if l.began.IsZero() {
			l.began = time.Now()
		}
		e := l.send(l.g[i%len(l.g)], l.question(said(1, 0), plain, whole, func(e *kills.Exchange) { e.Model = "openai/" + limitedModel }))
		switch {
		case e.Status == 200:
			l.let++
			l.want(e, well)
		case e.Status == 503 && e.Code == "busy": // the machine is
		default:
			l.want(e, refused(429, "rate_limit_exceeded"))
			if e.Answer.Get("Retry-After") == "" {
				l.Errorf("%s: there is no Retry-After", e.Text)
			}
		}
	}
}

// kept checks that no more was let in than the limit, what time gave back, and extra; and, once more was asked than that,
// no less than the limit.
func (l *allowance) kept(extra int) {
	l.Helper()
	back := int(time.Since(l.began)*time.Duration(l.most)/time.Minute) + 1
	if l.let > l.most+back+extra {
		l.Errorf("of a limit of %d %d were let in, where time gave back %d", l.most, l.let, back)
	}
	if l.let < l.most-1 {
		l.Errorf("of a limit of %d only %d were let in", l.most, l.let)
	}
}

// degraded waits until a gateway says that its limits are kept by shares, or that they are not.
func (w *world) degraded(g *rig.Gateway, is bool) {
	w.Helper()
	want := map[bool]float64{true: 1}[is]
	w.eventually(20*time.Second, func() bool { return w.metrics(g)["threadhub_limits_degraded"] == want }, "limits to be degraded: %v", is)
}

// told lets the gateways tell Redis what they know.
func (w *world) told() { w.sleep(1500 * time.Millisecond) }

// level is the limit's name in Redis.
func (l *allowance) level() string {
	return fmt.Sprintf("threadhub:limit:{%s}:org:%s:requests:%s", l.who.Org, l.who.Org, limitedModel)
}

// What a failover loses, a Redis begins without that is told what an older one had. More is let in by no more than what was
// lost.
func limitsAfterFailover(w *world) {
	l := w.limit(12)
	l.ask(4)
	w.told()
	c := w.redisClient()
	was, err := c.Dump(context.Background(), l.level()).Result()
	w.must(err)
	l.ask(4)
	w.told()
	w.must(w.redis.Kill())
	w.must(w.redis.Restart(context.Background()))
	w.must(c.RestoreReplace(context.Background(), l.level(), time.Minute, was).Err())
	l.ask(16)
	w.degraded(w.g[0], false)
	l.ask(8)
	l.kept(4)
}

// A command whose answer is lost is carried out, and decided by the share at the same time: it counts once.
func limitsCountOnce(w *world) {
	l := w.limit(12)
	l.ask(2)
	w.told()
	w.wire["redis"].Freeze(Down)
	l.ask(4)
	w.wire["redis"].Thaw()
	w.degraded(w.g[0], false)
	w.told()
	owed, err := w.redisClient().HGet(context.Background(), l.level(), "debt").Int()
	w.must(err)
	if owed > l.let*60_000 {
		w.Errorf("%d were let in, and %.1f are owed", l.let, float64(owed)/60_000)
	}
	l.ask(16)
	l.kept(0)
}

// The clock of Redis is everybody's. What it has is moved instead: an hour's leap ends all it keeps for a minute, and a
// clock that is set back finds times to come.
func limitsWhenTheClockJumps(w *world) {
	l := w.limit(12)
	l.ask(16)
	l.kept(0)
	w.told()
	c, ctx := w.redisClient(), context.Background()
	if pick(w, "ahead", "back") == "ahead" {
		w.must(c.FlushDB(ctx).Err())
	} else {
		w.must(setBack.Run(ctx, c, []string{l.level()}, time.Hour.Milliseconds()).Err())
	}
	l.ask(8)
	l.kept(12)
	let := l.let
	w.eventually(30*time.Second, func() bool {
		l.ask(1)
		w.sleep(500 * time.Millisecond)
		return l.let > let
	}, "room to be given back as before")
}

// setBack moves the times of a level into the future.
var setBack = redis.NewScript(`
local h = redis.call('HGETALL', KEYS[1])
for i = 1, #h, 2 do
  local by = tonumber(ARGV[1])
  local seen, till, rest = string.match(h[i + 1], '^(%d+) (%d+) (.*)$')
  if h[i] == 'at' then redis.call('HSET', KEYS[1], 'at', string.format('%.0f', h[i + 1] + by)) end
  if till then redis.call('HSET', KEYS[1], h[i], seen .. ' ' .. string.format('%.0f', till + by) .. ' ' .. rest) end
end
return redis.call('PEXPIRE', KEYS[1], string.format('%.0f', redis.call('PTTL', KEYS[1]) + ARGV[1]))`)
