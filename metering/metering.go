// Package metering says what calls cost: the catalogue of models and prices, exact arithmetic over it, and the ledger.
//
// It promises that money is integers from end to end, that the same usage at the same price version always costs the
// same, that a figure a provider cannot have meant is never multiplied, and that ledger lines are written in the
// transaction that closes their call and never changed. It leaves to others when a line is due, and reading usage out
// of an answer.
package metering
