package spool

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/seal"
	"threadhub/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Leaks(m) }

func keyring(t testing.TB, list ...string) *seal.Keyring {
	t.Helper()
	k, err := seal.ParseKeyring(strings.Join(list, ","))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func open(t *testing.T, dir string, keys *seal.Keyring, o Options) *Spool {
	t.Helper()
	if o.Every == 0 {
		o.Every = 5 * time.Millisecond
	}
	s, err := Open(dir, keys, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestARecordIsFoundByTheNextProcess(t *testing.T) {
	dir, keys := filepath.Join(t.TempDir(), "spool"), keyring(t, seal.NewKey())
	s := open(t, dir, keys, Options{})
	record := []byte(`{"what":"the answer nobody else may read"}`)
	for _, name := range []string{"req_b", "req_a"} {
		if err := s.Put(name, record); err != nil {
			t.Fatal(err)
		}
	}
	next := open(t, dir, keys, Options{})
	if got := strings.Join(next.Names(), " "); got != "req_a req_b" {
		t.Errorf("found %q", got)
	}
	got, err := next.Get("req_a")
	if err != nil || !bytes.Equal(got, record) {
		t.Errorf("read %q, %v", got, err)
	}
	if st := next.Stats(); st.Records != 2 || st.Bytes != 2*fileSize(t, filepath.Join(dir, "req_a.record")) {
		t.Errorf("stats %+v", st)
	}
	if err := next.Remove("req_a"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("req_a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed, and read: %v", err)
	}
	if st := s.Stats(); st.Records != 1 {
		t.Errorf("what another process removed still counts: %+v", st)
	}
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %v", path, info.Mode())
	}
	return info.Size()
}

func TestNothingOfARecordCanBeRead(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, keyring(t, seal.NewKey()), Options{})
	if err := s.Put("req_a", []byte("a secret of the client")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "req_a.record"))
	if err != nil || bytes.Contains(text, []byte("secret")) {
		t.Errorf("the file reads %q, %v", text, err)
	}
}

// Every single changed, missing or added byte is seen.
func TestDamageIsSeen(t *testing.T) {
	s := open(t, t.TempDir(), keyring(t, seal.NewKey()), Options{})
	whole, err := s.seal("req_a", []byte("record"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		bad := bytes.Clone(whole)
		bad[i] ^= 1
		want := ErrDamaged
		if i == len(magic)-1 { // another version
			want = ErrForeign
		}
		if got, err := s.open("req_a", bad); !errors.Is(err, want) {
			t.Errorf("byte %d changed: %q, %v", i, got, err)
		}
		if got, err := s.open("req_a", whole[:i]); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut to %d bytes: %q, %v", i, got, err)
		}
	}
	if _, err := s.open("req_a", append(bytes.Clone(whole), 0)); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte more: %v", err)
	}
	if _, err := s.open("req_b", whole); !errors.Is(err, ErrDamaged) {
		t.Errorf("under another name: %v", err)
	}
}

// A key that was taken away is no damage: with it the record is read again. So is a newer key in front.
func TestKeysChange(t *testing.T) {
	dir, first, second := t.TempDir(), seal.NewKey(), seal.NewKey()
	if err := open(t, dir, keyring(t, first), Options{}).Put("req_a", []byte("record")); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, dir, keyring(t, second), Options{}).Get("req_a"); !errors.Is(err, ErrForeign) {
		t.Errorf("without its key: %v", err)
	}
	if got, err := open(t, dir, keyring(t, second, first), Options{}).Get("req_a"); err != nil || string(got) != "record" {
		t.Errorf("behind a newer key: %q, %v", got, err)
	}
}

func TestQuarantine(t *testing.T) {
	dir, keys := t.TempDir(), keyring(t, seal.NewKey())
	s := open(t, dir, keys, Options{})
	if err := s.Put("req_a", []byte("record")); err != nil {
		t.Fatal(err)
	}
	if err := s.Quarantine("req_a"); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Records != 0 || st.Bytes != 0 || st.Quarantined != 1 {
		t.Errorf("stats %+v", st)
	}
	if names := open(t, dir, keys, Options{}).Names(); len(names) != 0 {
		t.Errorf("found again: %q", names)
	}
	if _, err := os.Stat(filepath.Join(dir, "req_a.bad")); err != nil {
		t.Error(err)
	}
}

func TestACapRefusesNewWorkAndNoRecord(t *testing.T) {
	s := open(t, t.TempDir(), keyring(t, seal.NewKey()), Options{MaxBytes: 100})
	if err := s.Room(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"req_a", "req_b"} {
		if err := s.Put(name, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Room(); !fault.HasCode(err, "ledger_backlog") {
		t.Errorf("beyond the cap: %v", err)
	}
	for _, name := range s.Names() {
		if err := s.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Room(); err != nil {
		t.Errorf("empty again: %v", err)
	}
}

func TestADiskWithTooLittleFree(t *testing.T) {
	s := open(t, t.TempDir(), keyring(t, seal.NewKey()), Options{MinFree: 1 << 62})
	if err := s.Room(); !fault.HasCode(err, "storage_full") {
		t.Errorf("told %v", err)
	}
}

// A folder that takes nothing is found out before a record needs it, and found well again.
func TestAFolderThatTakesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s := open(t, dir, keyring(t, seal.NewKey()), Options{})
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 5*time.Second, func() bool { return fault.HasCode(s.Room(), "storage_full") }, "room to be gone")
	if err := s.Put("req_a", []byte("record")); err == nil {
		t.Error("a record was kept nowhere")
	}
	if st := s.Stats(); st.Failures != 1 || st.Records != 0 {
		t.Errorf("stats %+v", st)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 5*time.Second, func() bool { return s.Room() == nil }, "room to be back")
}

func TestWhatWasNeverFinishedIsClearedAway(t *testing.T) {
	dir, keys := t.TempDir(), keyring(t, seal.NewKey())
	old, fresh := filepath.Join(dir, "req_a.1.new"), filepath.Join(dir, "req_b.2.new")
	for _, path := range []string{old, fresh} {
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-2*abandoned)); err != nil {
		t.Fatal(err)
	}
	if names := open(t, dir, keys, Options{}).Names(); len(names) != 0 {
		t.Errorf("found %q", names)
	}
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Errorf("another process may be writing it: %v", err)
	}
}

func TestNamesOfRecords(t *testing.T) {
	s := open(t, t.TempDir(), keyring(t, seal.NewKey()), Options{})
	for _, name := range []string{"", "../req", "req/a", "req.a", strings.Repeat("a", 65)} {
		if err := s.Put(name, nil); err == nil {
			t.Errorf("%q was taken for a name", name)
		}
	}
}

func TestNoSpool(t *testing.T) {
	var s *Spool
	if s.Room() != nil || s.Names() != nil || s.Stats() != (Stats{}) || s.Close() != nil || s.Put("req_a", nil) == nil {
		t.Error("a spool that is not there says it keeps something")
	}
}

// FuzzFile: whatever a file holds, it is read as what was written, or not at all.
func FuzzFile(f *testing.F) {
	s := &Spool{keys: keyring(f, seal.NewKey())}
	for _, record := range []string{"", "record"} {
		text, err := s.seal("req_a", []byte(record))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, text []byte) {
		record, err := s.open("req_a", text)
		if err == nil && len(record)+len(magic) > len(text) {
			t.Errorf("%d bytes were read from %d", len(record), len(text))
		}
		if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrForeign) {
			t.Errorf("told %v", err)
		}
	})
}
