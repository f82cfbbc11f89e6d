package upstreams

// Batcher is Wording of what its provider takes in several requests. To the client and to the ledger they are one: either
// all of them are answered, or none is. It is found by type assertion.
type Batcher interface {
	// Next takes the answer to a request, and reports whether there is another: Body is then that one. The answer to the
	// last is left to Whole, which returns all of it. Errors are those of Whole.
	Next(answer []byte) (more bool, err error)

	// Spent is an object with the usage of the answers that were taken; nil where the provider did not tell it.
	Spent() []byte
}

// batches asks for what is left, one request after the other, and returns the last answer, and whether there were several.
// What fails after another was answered may be billed, however it failed.
func (k *call) batches(r *Request, body []byte) (last []byte, several bool, err error) {
	batch, ok := r.words.(Batcher)
	if !ok || k.reads {
		return body, false, nil
	}
	for {
		more, err := batch.Next(body)
		if err != nil {
			k.Body, k.MaybeBilled = batch.Spent(), true
			return nil, several, k.told(err)
		}
		if !more {
			return body, several, nil
		}
		several = true
		k.most -= int64(len(body))
		if body, err = k.piece(r); err != nil {
			k.sent.Store(true) // the first was
			k.Body, k.Stale, k.MaybeBilled = batch.Spent(), false, true
			return nil, several, err
		}
	}
}
