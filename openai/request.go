package openai

import (
	"bytes"

	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// Request is what a request has whatever it is for: the bytes as they came, and what of them is the gateway's business.
// It shares the body's memory and is read only once made.
type Request struct {
	Raw   []byte // the body as it came
	Model string // as the client named it; never empty
	// Thread is `thread_id` or `metadata.thread_id`: a valid id, or "new" for one of ours; "" if the body names no thread.
	Thread string

	members []Member
	model   Span // the member's value
	strip   bool // thread_id or metadata.thread_id is there, if only as null
	wrong   *fault.Error
}

// fail keeps the first error that is not one of JSON: those are told only once the whole text is known to be JSON.
func (r *Request) fail(err *fault.Error) {
	if r.wrong == nil {
		r.wrong = err
	}
}

// refuseOtherCase fails for a name that decoders without an eye for case take for one of ours (Go's encoding/json does,
// and folds beyond ASCII): the model we bill would not be the model that answers.
func (r *Request) refuseOtherCase(name []byte, ours []string) {
	plain := true
	for _, b := range name {
		plain = plain && (b == '_' || b >= 'a' && b <= 'z' || b >= '0' && b <= '9')
	}
	if plain {
		return
	}
	for _, our := range ours {
		if bytes.EqualFold(name, []byte(our)) {
			r.fail(fault.New(fault.Invalid, "unknown member %q: did you mean %q? Names count in their exact case", clip(string(name)), our).
				WithCode("unknown_parameter").WithParam(clip(string(name))))
		}
	}
}

func (r *Request) readModel() {
	v := r.model.of(r.Raw)
	if len(v) > 0 && !isString(v) && !isNull(v) {
		r.fail(invalidType("model", "model must be a string"))
		return
	}
	if r.Model = text(v); r.Model == "" {
		r.fail(missing("model", "you must provide a model parameter"))
	}
}

func (r *Request) readThread(top, metadata Span) {
	r.strip = !top.empty()
	first := r.threadID("thread_id", top.of(r.Raw))
	meta := metadata.of(r.Raw)
	if len(meta) > 0 && !isNull(meta) && !isObject(meta) {
		r.fail(invalidType("metadata", "metadata must be an object"))
		return
	}
	var second string
	if isObject(meta) {
		m, twice := find(meta, "thread_id")
		if twice {
			r.fail(duplicate("thread_id").WithParam("metadata.thread_id"))
		}
		r.strip = r.strip || !m.Value.empty()
		second = r.threadID("metadata.thread_id", m.Value.of(meta))
	}
	if first != "" && second != "" && first != second {
		r.fail(invalidValue("thread_id", "thread_id and metadata.thread_id name different threads"))
	}
	if r.Thread = first; first == "" {
		r.Thread = second
	}
}

func (r *Request) threadID(param string, v []byte) string {
	if len(v) == 0 || isNull(v) {
		return ""
	}
	if !isString(v) {
		r.fail(invalidType(param, "%s must be a string", param))
		return ""
	}
	s := text(v)
	if !id.ValidThread(s) && s != "new" {
		r.fail(invalidValue(param, "%s must be 1 to %d letters, digits or . _ : - (not \".\" or \"..\"), or \"new\"", param, id.MaxThread))
		return ""
	}
	return s
}

// editModel gives the request the provider's name for its model; "" leaves the client's.
func (r *Request) editModel(edits []edit, model string) []edit {
	if model == "" || model == r.Model {
		return edits
	}
	return append(edits, edit{at: r.model, with: appendString(nil, model)})
}

// removeThread takes thread_id out of the body and out of its metadata.
func (r *Request) removeThread(edits []edit) []edit {
	if !r.strip {
		return edits
	}
	drop := make([]bool, len(r.members))
	for i, m := range r.members {
		switch string(m.Name) {
		case "thread_id":
			drop[i] = true
		case "metadata":
			edits, drop[i] = removeInner(edits, r.Raw, m.Value)
		}
	}
	return removeItems(edits, len(r.members), func(i int) (Span, bool) {
		return Span{r.members[i].Key[0], r.members[i].Value[1]}, drop[i]
	})
}
