// Package rolling holds the suite in which gateways of one installation are ended and started again while clients ask:
// what a rolling update does. It looks from outside, at processes.
package rolling
