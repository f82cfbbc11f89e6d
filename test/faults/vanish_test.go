package faults

import (
	"net"
	"sync"
	"time"

	"threadhub/simulator"
)

// How long the gateway's kernel waits for a client's to say that something has arrived, and what the row makes of it.
const (
	userTime = 30 * time.Second
	scaled   = userTime / 50
)

var vanishes = row{
	id: "C2", title: "the client vanishes", metric: "threadhub_stream_end_total",
	setup: setup{apart: true, env: append(longStreams(), "THREADHUB_LISTEN=0.0.0.0:0")}, play: vanished,
}

// vanished plays C2: the client's machine is a network of its own, which loses its link in the middle of a stream.
func vanished(w *world) {
	far, err := newNetwork(w)
	if err != nil {
		w.cannotPlay(err.Error())
		return
	}
	_, port, err := net.SplitHostPort(w.g[0].Host())
	w.must(err)
	conn, err := far.dial(net.JoinHostPort(far.host, port))
	w.must(err)
	c := w.client(w.g[0])
	c.Dial = func() (net.Conn, error) { return conn, nil }
	e := w.question(said(90, 50*time.Millisecond))
	e.Wait = 6 * time.Second // it hears no more of it
	begun, over := make(chan struct{}), make(chan struct{})
	var once sync.Once
	e.Watch = func(string) error {
		once.Do(func() { close(begun) })
		return nil
	}
	go func() {
		defer close(over)
		c.Ask(e)
		w.note(e)
	}()
	select {
	case <-begun:
	case <-over:
	}
	given, err := scaleUserTimeout(w.g[0].PID(), conn.LocalAddr().String(), scaled)
	w.must(err)
	if given != userTime {
		w.Errorf("its kernel is given %v", given)
	}
	w.must(far.cut())
	lost := time.Now()
	<-over
	if a := w.attempt(e); a.End != simulator.EndClientGone || a.Ended.Sub(lost) > scaled+heartbeatTime+time.Second+slack {
		w.Errorf("the provider was let go after %v: %s", a.Ended.Sub(lost), a.End)
	}
	w.want(e, end{status: 200, outcome: "incomplete", reason: []string{"client_closed"}, line: estimated})
	w.moved("threadhub_stream_end_total", `reason="client_closed"`)
}
