// Package openai is the dialect we speak to clients: the wire shapes of the OpenAI API, chat and embeddings, and nothing
// else.
//
// Everything here is a pure function on bytes. A request is looked at in one pass that proves it valid JSON and notes
// where things are; it is never decoded and encoded again, so what the client wrote is what a provider gets, but for the
// spans Splice replaces. Whole answers and chunks are read the same way. Errors are faults: Invalid for what a client
// must change, Upstream or RateLimited for what a provider sent.
//
// It leaves to others every decision: which model, what history, what an answer costs, what is stored.
package openai
