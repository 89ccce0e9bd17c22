// Package compression reads compressed files and knows how they are named.
package compression

import (
	"fmt"
	"strings"
)

// MagicSize is how many bytes of a file Detect looks at.
const MagicSize = 6

// Format is a compression that Reader reads.
type Format struct {
	Name   string // as its tools are called: gzip, zstd, xz, bzip2, lz4
	Suffix string // of the names of its files: .gz
	magics []string
}

// The formats, in the order in which a log is looked for under their names.
var (
	gzipFormat  = &Format{"gzip", ".gz", []string{"\x1f\x8b"}}
	zstdFormat  = &Format{"zstd", ".zst", append(skippable(), "\x28\xb5\x2f\xfd")}
	xzFormat    = &Format{"xz", ".xz", []string{"\xfd7zXZ\x00"}}
	bzip2Format = &Format{"bzip2", ".bz2", []string{"BZh"}}
	lz4Format   = &Format{"lz4", ".lz4", []string{"\x04\x22\x4d\x18", "\x02\x21\x4c\x18"}}

	formats = []*Format{gzipFormat, zstdFormat, xzFormat, bzip2Format, lz4Format}
)

// skippable returns the first bytes of the frames of zstd that hold no text:
// pzstd begins its files with one.
func skippable() (magics []string) {
	for c := byte(0x50); c < 0x60; c++ {
		magics = append(magics, string([]byte{c, 0x2a, 0x4d, 0x18}))
	}
	return magics
}

// unread are the first bytes of compressed files that Reader does not read. No
// log starts so.
var unread = []struct{ magic, name, command string }{
	{"PK\x03\x04", "ZIP", "unzip"},
	{"\x1f\x9d", "compress", "gzip -d"},
	{"LZIP", "lzip", "lzip -d"},
}

// Error reports a file that Reader does not read, though it may be sound.
type Error struct{ reason, hint string }

func (e *Error) Error() string { return e.reason }

// Hint says what the user can do.
func (e *Error) Hint() string { return e.hint }

// Detect returns the format of a file by its first MagicSize bytes, or as many
// as it has. It returns nil if the file is not compressed, and an *Error if it is
// compressed with a format that Reader does not read.
func Detect(head []byte) (*Format, error) {
	for _, f := range formats {
		for _, m := range f.magics {
			if strings.HasPrefix(string(head), m) {
				return f, nil
			}
		}
	}
	for _, u := range unread {
		if strings.HasPrefix(string(head), u.magic) {
			return nil, &Error{fmt.Sprintf("compressed with %s, not read", u.name), "decompress it: " + u.command + ", or compress it with gzip, zstd, xz, bzip2 or lz4"}
		}
	}
	return nil, nil
}

// Suffixes returns the suffixes of the names of compressed files, .gz first.
func Suffixes() []string {
	var list []string
	for _, f := range formats {
		list = append(list, f.Suffix)
	}
	return list
}

// CutSuffix returns a file's name without the suffix of a compression, and that
// suffix, or "".
func CutSuffix(name string) (plain, suffix string) {
	for _, f := range formats {
		if plain, ok := strings.CutSuffix(name, f.Suffix); ok {
			return plain, f.Suffix
		}
	}
	return name, ""
}
