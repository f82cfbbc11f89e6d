// Package metering says what calls cost: the catalogue of models and prices, exact arithmetic over it, the ledger, and
// what hard budgets have used.
//
// It promises that money is integers from end to end, that the same usage at the same price version always costs the
// same, that a figure a provider cannot have meant is never multiplied, that ledger lines are written in the
// transaction that closes their call and never changed, and that no call is opened for which a hard budget has no room,
// however many ask at once. It leaves to others when a line is due, and reading usage out of an answer.
package metering
