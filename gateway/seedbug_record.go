//go:build seedbug_record

package gateway

// dropRecord is a bug planted by the build tag seedbug_record, so that the kill suite can show it would see it.
const dropRecord = true
