// Package compression reads compressed files and recognizes them by their first
// bytes or their names' suffixes.
package compression

import (
	"fmt"
	"strings"
)

// MagicSize is the number of bytes at the start of a file that Detect needs.
const MagicSize = 6

// Format is a compression format that Reader supports.
type Format struct {
	Name   string // name of its tool: gzip, zstd, xz, bzip2, lz4
	Suffix string // suffix of its files, such as .gz
	magics []string
}

// All formats, in the order in which the import looks for compressed versions
// of a log.
var (
	gzipFormat  = &Format{"gzip", ".gz", []string{"\x1f\x8b"}}
	zstdFormat  = &Format{"zstd", ".zst", append(skippable(), "\x28\xb5\x2f\xfd")}
	xzFormat    = &Format{"xz", ".xz", []string{"\xfd7zXZ\x00"}}
	bzip2Format = &Format{"bzip2", ".bz2", []string{"BZh"}}
	lz4Format   = &Format{"lz4", ".lz4", []string{"\x04\x22\x4d\x18", "\x02\x21\x4c\x18"}}

	formats = []*Format{gzipFormat, zstdFormat, xzFormat, bzip2Format, lz4Format}
)

// skippable returns the magic numbers of zstd's skippable frames, which hold no
// content. Files of pzstd start with such a frame.
func skippable() (magics []string) {
	for c := byte(0x50); c < 0x60; c++ {
		magics = append(magics, string([]byte{c, 0x2a, 0x4d, 0x18}))
	}
	return magics
}

// unread lists the magic numbers of compression formats that Reader does not
// support. No plain log starts with one of them.
var unread = []struct{ magic, name, command string }{
	{"PK\x03\x04", "ZIP", "unzip"},
	{"\x1f\x9d", "compress", "gzip -d"},
	{"LZIP", "lzip", "lzip -d"},
}

// Error reports that Reader does not support a file. The file itself may be
// intact.
type Error struct{ reason, hint string }

func (e *Error) Error() string { return e.reason }

// Hint returns advice for the user.
func (e *Error) Hint() string { return e.hint }

// Detect returns the format of a file whose first bytes are head: MagicSize
// bytes, or the whole file if it is shorter. It returns nil if the file is not
// compressed, and an *Error if Reader does not support its format.
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

// Suffixes returns the suffixes of compressed files, .gz first.
func Suffixes() []string {
	var list []string
	for _, f := range formats {
		list = append(list, f.Suffix)
	}
	return list
}

// CutSuffix splits name into the name of the plain file and the compression
// suffix, which is "" for a plain file.
func CutSuffix(name string) (plain, suffix string) {
	for _, f := range formats {
		if plain, ok := strings.CutSuffix(name, f.Suffix); ok {
			return plain, f.Suffix
		}
	}
	return name, ""
}
