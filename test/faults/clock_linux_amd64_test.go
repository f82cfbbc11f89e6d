package faults

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clock is the clock of one process, which shows another time than the machine's. A process asks for the time not the
// kernel but code that the kernel has put into its memory (vDSO). In the memory of this one process we replace that code
// by some that asks the kernel and adds a number of seconds, which we change. What is measured on the monotonic clock is
// left as it is, as when somebody sets a machine's clock.
type clock struct {
	mem *os.File
	at  int64 // where the seconds are
}

// otherClock is the code, with the seconds behind it.
var otherClock = []byte{
	0xb8, 0xe4, 0x00, 0x00, 0x00, // mov eax, 228: clock_gettime(edi, rsi)
	0x0f, 0x05, // syscall
	0x85, 0xff, // test edi, edi: CLOCK_REALTIME is 0
	0x75, 0x0a, // jne to ret
	0x48, 0x8b, 0x0d, 0x06, 0x00, 0x00, 0x00, // mov rcx, [the seconds]
	0x48, 0x01, 0x0e, // add [rsi], rcx
	0xc3,       // ret
	0xcc, 0xcc, // so that the seconds lie at a multiple of 8
	0, 0, 0, 0, 0, 0, 0, 0,
}

// takeClock gives a process a clock of its own, which is right at first.
func takeClock(pid int) (_ *clock, err error) {
	first, last, err := vdso(pid)
	if err != nil {
		return nil, err
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = mem.Close()
		}
	}()
	image := make([]byte, last-first)
	if _, err := mem.ReadAt(image, first); err != nil {
		return nil, err
	}
	entry, err := entryOf(image, "__vdso_clock_gettime")
	if err != nil {
		return nil, err
	}
	code := int64(len(image) - len(otherClock)) // behind all that the image is made of
	if len(bytes.Trim(image[code:], "\x00")) > 0 {
		return nil, errors.New("there is no room for a clock")
	}
	if err := halt(pid, first, last); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, syscall.Kill(pid, syscall.SIGCONT)) }()
	jump := binary.LittleEndian.AppendUint32([]byte{0xe9}, uint32(code-(entry+5)))
	if _, err := mem.WriteAt(otherClock, first+code); err != nil {
		return nil, err
	}
	if _, err := mem.WriteAt(jump, first+entry); err != nil {
		return nil, err
	}
	return &clock{mem, last - 8}, nil
}

// Set makes the clock d ahead of the machine's, in whole seconds.
func (c *clock) Set(d time.Duration) error {
	_, err := c.mem.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(int64(d/time.Second))), c.at)
	return err
}

func (c *clock) Close() { _ = c.mem.Close() }

// vdso is where in a process's memory the kernel's code is.
func vdso(pid int) (first, last int64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			_, err := fmt.Sscanf(line, "%x-%x", &first, &last)
			return first, last, err
		}
	}
	return 0, 0, errors.New("the process asks the kernel for the time")
}

// entryOf is where in the image a function begins.
func entryOf(image []byte, name string) (int64, error) {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, err
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return 0, err
	}
	for _, s := range symbols {
		if s.Name == name {
			return int64(s.Value), nil
		}
	}
	return 0, fmt.Errorf("there is no %s", name)
}

// halt stops a process where none of its threads is in the memory from first to last.
func halt(pid int, first, last int64) error {
	for range 100 {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return err
		}
		<-time.After(5 * time.Millisecond)
		if elsewhere(pid, first, last) {
			return nil
		}
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			return err
		}
		<-time.After(time.Millisecond)
	}
	return errors.New("the process cannot be stopped where its clock can be changed")
}

// elsewhere reports whether all threads of a process stand still, and none of them between first and last.
func elsewhere(pid int, first, last int64) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	if err != nil || len(threads) == 0 {
		return false
	}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		fields := strings.Fields(string(text))
		if err != nil || len(fields) < 2 { // it runs
			return false
		}
		at, err := strconv.ParseInt(strings.TrimPrefix(fields[len(fields)-1], "0x"), 16, 64)
		if err != nil || first <= at && at < last {
			return false
		}
	}
	return true
}
