// Package spool keeps records on this machine's disk that another store cannot take now, until it can.
//
// It promises that a record Put has returned for is on the disk, whole, sealed under the operator's key and readable by
// nobody else, and is found again by the next process that opens the folder; that a damaged record is told from a good
// one and costs no other; and that it says in time that it is full, so that whoever would need it later can refuse work
// now. What a record means, and that it may be applied twice, is up to its owner.
//
// Processes may share a folder: each writes records under names of its own, and all of them apply what they find at
// their start.
package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"threadhub/internal/contain"
	"threadhub/internal/fault"
	"threadhub/internal/seal"
)

// The names of files: a record, one that is being written, one that is damaged, and the one that shows that files can be
// made.
const (
	recordSuffix = ".record"
	newSuffix    = ".new"
	badSuffix    = ".bad"
	probeName    = "probe"
)

// abandoned is how old a file that was being written is when its writer must have died over it.
const abandoned = time.Minute

// Options set how much a spool may take.
type Options struct {
	MaxBytes int64         // 256 MiB: with more in it there is no room for new work
	MinFree  int64         // with less free on its disk, neither; 0: 64 MiB, but of a small disk a tenth
	Every    time.Duration // 1 s between two looks at the disk
	Log      *slog.Logger
	Panics   *contain.Panics // of the whole process; nil: they are not counted
}

// Spool is an open folder of records. Safe for concurrent use. A nil *Spool keeps nothing, and has room.
type Spool struct {
	dir  string
	keys *seal.Keyring
	o    Options

	mu    sync.Mutex
	sizes map[string]int64 // of the records there are, by name
	bytes int64
	stats Stats // counters
	disk  error // what is wrong with the disk; nil: nothing

	stop chan struct{}
	done chan struct{}
}

// Stats is what there is, and what has happened since the start.
type Stats struct {
	Records     int
	Bytes       int64
	Written     int64
	Quarantined int64
	Failures    int64 // records that could not be written
}

// Open makes dir if it is missing and finds what is in it. Close it.
func Open(dir string, keys *seal.Keyring, o Options) (*Spool, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = 256 << 20
	}
	if o.Every == 0 {
		o.Every = time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Spool{dir: dir, keys: keys, o: o, sizes: map[string]int64{}, stop: make(chan struct{}), done: make(chan struct{})}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if err := s.find(); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	s.look()
	go o.Panics.Run("spool", s.watch)
	return s, nil
}

// find counts the records, and clears away what was never finished.
func (s *Spool) find() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) { // another process has applied it
			continue
		}
		if err != nil {
			return err
		}
		name, record := strings.CutSuffix(e.Name(), recordSuffix)
		switch {
		case record && validName(name):
			s.sizes[name] = info.Size()
			s.bytes += info.Size()
		case strings.HasSuffix(e.Name(), newSuffix) && time.Since(info.ModTime()) > abandoned:
			_ = os.Remove(filepath.Join(s.dir, e.Name())) // nobody was told that it is kept
		}
	}
	return nil
}

// validName reports whether a record may be called name: ids, which are letters, digits and _.
func validName(name string) bool {
	return name != "" && len(name) <= 64 && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_'
	})
}

// Put keeps record under name, in place of what was there, and returns when it is on the disk. It does not ask whether
// there is room: what must be kept is kept if it can be.
func (s *Spool) Put(name string, record []byte) error {
	if s == nil {
		return errors.New("spool: there is none")
	}
	if !validName(name) {
		return fmt.Errorf("spool: %q is no name of a record", name)
	}
	text, err := s.seal(name, record)
	if err == nil {
		err = s.write(name, text)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.stats.Failures++
		s.disk = err // until the next look finds it well again
		return fmt.Errorf("spool: %w", err)
	}
	s.stats.Written++
	s.bytes += int64(len(text)) - s.sizes[name]
	s.sizes[name] = int64(len(text))
	return nil
}

// write makes the file under another name first: a reader sees all of it or nothing, whenever this process dies.
func (s *Spool) write(name string, text []byte) (err error) {
	f, err := os.CreateTemp(s.dir, name+".*"+newSuffix) // made with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), s.path(name)); err != nil {
		return err
	}
	return s.sync()
}

// sync makes what was done to the folder's names lasting.
func (s *Spool) sync() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Get returns the record that was put under name. Errors: fs.ErrNotExist when it is gone; ErrDamaged when it is not what
// was written; ErrForeign when this process cannot read it and another one may.
func (s *Spool) Get(name string) ([]byte, error) {
	text, err := os.ReadFile(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		s.forget(name)
	}
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	return s.open(name, text)
}

// Remove forgets the record: it has been applied. One that is gone already is no error.
func (s *Spool) Remove(name string) error {
	if err := os.Remove(s.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("spool: %w", err)
	}
	s.forget(name)
	return nil
}

// Quarantine puts a record aside for a person to look at. It stays on the disk, and is not found any more.
func (s *Spool) Quarantine(name string) error {
	if err := os.Rename(s.path(name), filepath.Join(s.dir, name+badSuffix)); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	s.forget(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Quarantined++
	return nil
}

func (s *Spool) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes -= s.sizes[name]
	delete(s.sizes, name)
}

// Names returns the names of all records, the oldest first as far as names tell.
func (s *Spool) Names() []string {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, 0, len(s.sizes))
	for name := range s.sizes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Stats returns what there is.
func (s *Spool) Stats() Stats {
	if s == nil {
		return Stats{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.stats
	t.Records, t.Bytes = len(s.sizes), s.bytes
	return t
}

// Room reports whether work may begin that may need the spool later. Errors: fault.Unavailable, ledger_backlog when
// there is too much in it, storage_full when its disk takes no more.
func (s *Spool) Room() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.bytes >= s.o.MaxBytes:
		return fault.New(fault.Unavailable, "the gateway has too much that its storage has not taken yet; try again later").
			WithCode("ledger_backlog").After(5 * time.Second)
	case s.disk != nil:
		return fault.Wrap(fault.Unavailable, s.disk, "the gateway's disk takes no more; try again later").
			WithCode("storage_full").After(5 * time.Second)
	}
	return nil
}

// watch looks at the disk now and then, so that Room need not wait for it.
func (s *Spool) watch() {
	defer close(s.done)
	tick := time.NewTicker(s.o.Every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.o.Panics.Run("spool", s.look) // and again, whatever became of it
		case <-s.stop:
			return
		}
	}
}

// look finds out whether the disk takes files, and tells the log when that changes.
func (s *Spool) look() {
	err := s.probe()
	s.mu.Lock()
	before := s.disk
	s.disk = err
	s.mu.Unlock()
	switch {
	case err != nil && before == nil:
		s.o.Log.Error("the spool's disk takes no more; no new calls are taken", "folder", s.dir, "error", err)
	case err == nil && before != nil:
		s.o.Log.Info("the spool's disk takes records again", "folder", s.dir)
	}
}

func (s *Spool) probe() error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return err
	}
	least := s.o.MinFree
	if least == 0 {
		least = min(64<<20, int64(st.Blocks)*int64(st.Bsize)/10) //nolint:unconvert // the type differs between systems
	}
	if free := int64(st.Bavail) * int64(st.Bsize); free < least { //nolint:unconvert // likewise
		return fmt.Errorf("only %d bytes are free, and %d are wanted", free, least)
	}
	f, err := os.CreateTemp(s.dir, probeName+".*"+newSuffix)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte{0})
	return errors.Join(err, f.Close(), os.Remove(f.Name()))
}

func (s *Spool) path(name string) string { return filepath.Join(s.dir, name+recordSuffix) }

// Close ends the looks at the disk. Records stay.
func (s *Spool) Close() error {
	if s == nil {
		return nil
	}
	close(s.stop)
	<-s.done
	return nil
}
