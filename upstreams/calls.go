package upstreams

import (
	"fmt"
	"slices"

	"threadhub/internal/fault"
)

// Calls follows the calls of tools in a conversation that is put into other words. Providers refuse one without its
// result, and the other way around, each in words of its own; a client learns here which of its messages is wrong, before
// anything is sent or stored. The zero value is at the beginning.
//
// Errors of its methods are fault.Invalid, with the member of the message as param.
type Calls struct {
	message int      // that calls
	open    []string // ids of its calls without a result
}

// Called notes that message n calls a tool.
func (c *Calls) Called(n int, id string) error {
	if id == "" {
		return misused(n, "tool_calls", "a tool call of message %d has no id", n)
	}
	c.message, c.open = n, append(c.open, id)
	return nil
}

// Answered notes that message n has the result of a call.
func (c *Calls) Answered(n int, id string) error {
	at := slices.Index(c.open, id)
	if at < 0 {
		return misused(n, "tool_call_id", "message %d answers no tool call of the message before the results, or one that has its result", n)
	}
	c.open = slices.Delete(c.open, at, at+1)
	return nil
}

// Closed says whether all calls have their results, as they must before anybody else speaks, and at the end.
func (c *Calls) Closed() error {
	if len(c.open) == 0 {
		return nil
	}
	return misused(c.message, "tool_calls", "the messages after message %d do not have the results of all of its tool calls", c.message)
}

func misused(n int, member, format string, args ...any) error {
	return fault.New(fault.Invalid, format, args...).WithCode("invalid_value").WithParam(fmt.Sprintf("messages[%d].%s", n, member))
}
