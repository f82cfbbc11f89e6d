package model_test

import (
	"testing"

	"go.uber.org/goleak"

	"threadhub/internal/testkit"
	"threadhub/test/model"
)

func TestMain(m *testing.M) {
	testkit.Leaks(m, goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2")) // sleeps once more after its server has ended
}

// steps is how many are played on each store, with so many games at a time: enough that their commits share a disk's sync.
const (
	steps   = 10_000
	players = 8
)

func TestModel(t *testing.T) {
	for store, url := range model.Stores {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			model.Run(t, model.NewHouse(t, url(t), model.Setup{}), steps, players)
		})
	}
}
