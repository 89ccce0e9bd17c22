package anonymize

import (
	"bufio"
	"bytes"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

const (
	keySize    = 32  // bytes of a key
	minKey     = 16  // shortest key in mode tstat, in bytes: the size of an AES key
	maxKeyLine = 119 // bytes of the first line of a key file that Tstat reads
)

// readKey reads the key from the first line of a file, as Tstat does for --keyfile or, if
// encoded is true, for --keybase64. It truncates keys longer than 32 bytes. If pad is
// true, it pads keys of 16 to 31 bytes with zeros; otherwise they are an error.
func readKey(path string, encoded, pad bool) (*[keySize]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, hint.AsUsage(fmt.Errorf("key file: %w", err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	others := fs.FileMode(0o077)
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" && filepath.Dir(path) == filepath.Clean(dir) {
		others = 0o037 // systemd grants the service access by an ACL, which shows as group permission
	}
	if mode := info.Mode(); mode.IsRegular() && mode.Perm()&others != 0 {
		return nil, hint.Usage(fmt.Sprintf("key file %s: others can read it (mode %04o)", path, mode.Perm()), "chmod 600 "+path)
	}
	line, err := bufio.NewReader(io.LimitReader(f, maxKeyLine)).ReadBytes('\n')
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("key file: %w", err)
	}
	key, err := parseKey(line, encoded, pad)
	if err != nil {
		return nil, hint.Add(fmt.Errorf("key file %s: %w", path, err), hint.Of(err))
	}
	return key, nil
}

// parseKey returns the key in a line; see readKey. Its errors reveal no part of the
// key.
func parseKey(line []byte, encoded, pad bool) (*[keySize]byte, error) {
	text := bytes.TrimSuffix(line, []byte{'\n'})
	if encoded {
		decoded, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(text)))
		if err != nil {
			return nil, hint.Usage("the first line is not base64", "")
		}
		text = decoded
	}
	least := keySize
	if pad {
		least = minKey
	}
	if len(text) < least {
		return nil, hint.Usage(fmt.Sprintf("the key is too short: %d bytes, not %d", len(text), least),
			"make one: openssl rand -base64 32 > FILE, and name it with key-base64=FILE")
	}
	var key [keySize]byte
	copy(key[:], text)
	return &key, nil
}

// fingerprintRounds is the number of hash rounds for a fingerprint. They take about 50
// ms, so that guessing a key from its fingerprint is slow.
const fingerprintRounds = 200_000

// fingerprint returns a slow hash of a key, to tell keys apart without revealing them.
func fingerprint(key *[keySize]byte) string {
	sum, err := pbkdf2.Key(sha256.New, string(key[:]), []byte("tstatrepo key fingerprint"), fingerprintRounds, 8)
	if err != nil {
		panic(err) // the parameters are constant
	}
	return hex.EncodeToString(sum)
}
