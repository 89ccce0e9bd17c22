package shell

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"

	"golang.org/x/term"
)

// Lines reads lines from a terminal, a file or a pipe. A terminal offers line editing,
// history and completion. For these, Lines uses golang.org/x/term, because the program
// already links that package and the Go project maintains it.
type Lines struct {
	// Complete returns the candidates for the last word of a line. It may be nil.
	Complete func(line string) []string

	ctx      context.Context // ends the wait for a line
	in       *os.File
	out      io.Writer
	terminal *term.Terminal // nil if the input is not a terminal
	keys     *keys          // input of the terminal
	plain    *bufio.Reader
}

// maxLine is the maximum length of a line in a file, in bytes.
const maxLine = 64 << 10

// NewLines returns a Lines that reads from in and prompts on out until ctx is done.
func NewLines(ctx context.Context, in io.Reader, out io.Writer) *Lines {
	l := &Lines{ctx: ctx, out: out}
	f, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		l.plain = bufio.NewReaderSize(in, maxLine)
		return l
	}
	l.in = f
	l.keys = &keys{in: f}
	l.terminal = term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{l.keys, out}, "")
	l.terminal.AutoCompleteCallback = l.complete
	return l
}

// Terminal reports whether the input is a terminal.
func (l *Lines) Terminal() bool { return l.terminal != nil }

// ErrInterrupted is returned by Lines.Read after ^C.
var ErrInterrupted = errors.New("interrupted")

// keys reads the user's keystrokes for a term.Terminal. At ^C, a term.Terminal ends the
// line, but would add its content to the next line. keys therefore replaces ^C with
// keystrokes that erase and end the line. Like a terminal, it drops pending input at ^C.
type keys struct {
	in          io.Reader
	interrupted atomic.Bool
}

const (
	ctrlC     = 3
	eraseLine = "\x05\x15\r" // ^E, ^U, Enter: go to the end of the line, erase to its start
)

func (k *keys) Read(p []byte) (int, error) {
	n, err := k.in.Read(p)
	if bytes.IndexByte(p[:n], ctrlC) >= 0 {
		k.interrupted.Store(true)
		n = copy(p, eraseLine)
	}
	return n, err
}

// Read prompts for a line and returns it without its line ending. The error is io.EOF
// after ^D or at the end of the input, and ErrInterrupted after ^C.
func (l *Lines) Read(prompt string) (string, error) {
	if l.terminal == nil {
		fmt.Fprint(l.out, prompt)
		line, err := l.plain.ReadSlice('\n')
		if err == io.EOF && len(line) > 0 {
			err = nil
		}
		return strings.TrimRight(string(line), "\r\n"), err
	}
	// Keep the terminal in raw mode only while a line is read. At other times ^C must
	// raise a signal.
	fd := int(l.in.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return "", err
	}
	defer term.Restore(fd, before)
	if width, height, err := term.GetSize(fd); err == nil && width > 0 {
		l.terminal.SetSize(width, height)
	}
	l.terminal.SetPrompt(prompt)
	type result struct {
		line string
		err  error
	}
	typed := make(chan result, 1)
	go func() { // canceling ctx must not have to wait for the next key
		line, err := l.terminal.ReadLine()
		if errors.Is(err, term.ErrPasteIndicator) {
			err = nil
		}
		typed <- result{line, err}
	}()
	var r result
	select {
	case r = <-typed:
	case <-l.ctx.Done():
		r.err = l.ctx.Err()
	}
	if r.err != nil {
		fmt.Fprint(l.out, "\r\n")
	} else if l.keys.interrupted.Swap(false) {
		r.err = ErrInterrupted
	}
	return r.line, r.err
}

// complete is called by the terminal for each key; see
// term.Terminal.AutoCompleteCallback. For TAB, it extends the word before the cursor to
// the common prefix of all candidates. If the word already is that prefix, complete lists
// the candidates.
func (l *Lines) complete(line string, pos int, key rune) (string, int, bool) {
	if key != '\t' || l.Complete == nil {
		return "", 0, false
	}
	list := l.Complete(line[:pos])
	if len(list) == 0 {
		return line, pos, true
	}
	start := strings.LastIndexByte(line[:pos], ' ') + 1
	common := list[0]
	for _, c := range list[1:] {
		for !strings.HasPrefix(c, common) {
			common = common[:len(common)-1]
		}
	}
	if len(list) == 1 {
		common += " "
	} else if common == line[start:pos] {
		fmt.Fprintf(l.terminal, "%s\n", strings.Join(list, "  "))
	}
	return line[:start] + common + line[pos:], start + len(common), true
}
