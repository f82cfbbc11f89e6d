package db

import (
	"database/sql/driver"
	"sync"
	"time"

	"modernc.org/sqlite"
)

// RegisterFunctions gives SQLite what the shared SQL expects of it: now(), in nanoseconds since 1970. The driver keeps
// such functions for the whole process; registering again does nothing.
var RegisterFunctions = sync.OnceFunc(func() {
	sqlite.MustRegisterScalarFunction("now", 0, func(*sqlite.FunctionContext, []driver.Value) (driver.Value, error) {
		return time.Now().UnixNano(), nil
	})
})
