// Package state stores what a command must remember between runs. After a crash, a
// state file is complete or absent, and the kernel has released the process's locks.
package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/losslessjson"
)

// banner is the first word in a state file. It is followed on the first line by the
// format number and the SHA-256 of the remaining lines.
const banner = "tstatrepo-state"

// escaped ends the first line of state files in which file names are escaped as in
// package losslessjson. Older versions did not escape names.
const escaped = "escaped"

// ErrNewer reports that a newer version of the program wrote a file. Errors from
// CheckFormat wrap ErrNewer.
var ErrNewer = errors.New("a newer version wrote it")

// CheckFormat compares the format number found in the file at path with the newest
// format known to this version. It returns an error that wraps ErrNewer if the file's
// format is newer.
//
// Every file that the program writes for its own use has a format number, and its reader
// calls CheckFormat. Reading only part of a newer format could lose or repeat data.
func CheckFormat(path string, found, known int) error {
	if found <= known {
		return nil
	}
	return hint.Add(fmt.Errorf("%s: %w: its format is %d, and this version reads formats up to %d", path, ErrNewer, found, known),
		"upgrade tstatrepo to the version that wrote the file, or a later one")
}

// Load decodes into v the state that Save wrote to the file at path. The error is
// fs.ErrNotExist only if the file does not exist. A damaged file, or one with another
// format, is never treated as absent, because starting from zero would repeat all work.
func Load(path string, format int, v any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("state file: %w", err)
	}
	head, body, _ := bytes.Cut(text, []byte("\n"))
	var (
		found int
		sum   string
	)
	if _, err := fmt.Sscanf(string(head), banner+" %d %s", &found, &sum); err != nil {
		return damaged(path, "is not a state file or its header is damaged")
	}
	if err := CheckFormat(path, found, format); err != nil {
		return fmt.Errorf("state file %w", err)
	}
	switch {
	case found < format:
		return unusable(path, fmt.Sprintf("has the old format %d, and this version reads %d", found, format), "see the CHANGELOG for how to upgrade from that version")
	case sum != checksum(body):
		return damaged(path, "is damaged: its checksum is wrong")
	}
	unmarshal := losslessjson.Unmarshal
	switch string(head) {
	case fmt.Sprintf("%s %d %s %s", banner, format, sum, escaped):
	case fmt.Sprintf("%s %d %s", banner, format, sum):
		unmarshal = json.Unmarshal
	default:
		return damaged(path, "is not a state file or its header is damaged")
	}
	if err := unmarshal(body, v); err != nil {
		return damaged(path, "is damaged: "+err.Error())
	}
	return nil
}

func damaged(path, reason string) error {
	return unusable(path, reason, "restore it from a backup, or remove it to start from zero")
}

func unusable(path, reason, advice string) error {
	return hint.New("state file "+path+": "+reason, advice)
}

// Save atomically and durably replaces the file at path with one that contains v as
// JSON. It creates missing folders. Of two concurrent calls, the one that renames its
// file last takes effect.
func Save(path string, format int, v any) error {
	body, err := losslessjson.Marshal(v)
	if err != nil {
		return fmt.Errorf("state file %s: %w", path, err)
	}
	body = append(body, '\n')
	text := append(fmt.Appendf(nil, "%s %d %s %s\n", banner, format, checksum(body), escaped), body...)
	err = durable.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = durable.WriteFile(path, text)
	}
	if err != nil {
		return folderError(err)
	}
	return nil
}

func checksum(body []byte) string { return fmt.Sprintf("%x", sha256.Sum256(body)) }

// Absolute returns path as an absolute path. It resolves links unless path is missing
// or inaccessible, so that all paths to a folder lead to the same state.
func Absolute(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if os.IsNotExist(err) || os.IsPermission(err) {
		return abs, nil
	}
	return real, err
}

// folderError adds a hint to an error that concerns the state folder.
func folderError(err error) error {
	return hint.Add(fmt.Errorf("state folder: %w", err), "name a folder that can be written with `state-dir`")
}
