//go:build !linux || !cgo || norrd

package rrdfile

// Reader reads RRD files with librrd, which this program was built without.
type Reader struct{}

// NewReader returns ErrNoLibrrd.
func NewReader() (*Reader, error) { return nil, ErrNoLibrrd }

// Close does nothing.
func (*Reader) Close() error { return nil }

// Read returns ErrNoLibrrd.
func (*Reader) Read(string, int64) (*File, error) { return nil, ErrNoLibrrd }

// StampOf returns ErrNoLibrrd.
func StampOf(string) (Stamp, error) { return Stamp{}, ErrNoLibrrd }
