//go:build !(linux && cgo && librrd && (amd64 || arm64 || loong64 || mips64le || ppc64le || riscv64 || s390x))

package rrdfile

const hasLibrrd = false

func newLibrrd() (decoder, error) { return nil, ErrNoLibrrd }
