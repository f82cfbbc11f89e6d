//go:build race

package upstreamstest

// stride is how many bytes lie between two places at which a recorded stream is cut. The race detector makes each replay
// several times as long, and does not look for what the others find.
const stride = 7
