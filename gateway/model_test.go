package gateway_test

import (
	"testing"

	"threadhub/test/model"
)

// The game of test/model once more, small, for the race detector.
func TestRandomClients(t *testing.T) {
	for store, url := range model.Stores {
		t.Run(store, func(t *testing.T) { model.Run(t, model.NewHouse(t, url(t), model.Setup{}), 100, 4) })
	}
}
