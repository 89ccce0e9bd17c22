//go:build !(linux && cgo && librrd && (amd64 || arm64 || loong64 || mips64le || ppc64le || riscv64 || s390x))

package rrdfile

// NewLibrrdReader returns ErrNoLibrrd.
func NewLibrrdReader() (*Reader, error) { return nil, ErrNoLibrrd }
