//go:build !race

package upstreamstest

// stride is how many bytes lie between two places at which a recorded stream is cut.
const stride = 1
