package main

import (
	"os"
	"strings"
	"unsafe"
)

// hideSecrets returns a copy of the process's arguments and masks passwords in
// the original, which everyone on the machine can see with ps. On Linux and
// the BSDs os.Args is that memory; elsewhere this hides nothing.
func hideSecrets() []string {
	args := make([]string, len(os.Args))
	for i, arg := range os.Args {
		args[i] = strings.Clone(arg)
		if masked := maskSecrets(args[i]); masked != arg {
			memory := unsafe.Slice(unsafe.StringData(arg), len(arg))
			clear(memory[copy(memory, masked):])
		}
	}
	os.Args = args
	return args
}
