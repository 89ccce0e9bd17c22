//go:build !linux

package parquet

import "errors"

func exchange(_, _ string) error { return errors.ErrUnsupported }
