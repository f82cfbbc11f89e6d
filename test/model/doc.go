// Package model plays random clients against whole gateways in this process, and compares what they are told, what the
// provider is shown and what the thread holds with a model of a thread: a slice of messages and the contract's rules.
//
// The model shares no code with the gateway: its messages are made as what they say and only then written down, so that
// it need not read JSON to know which are equal, and its decision follows the words of the contract rather than the
// hashes of threads.
package model
