// Command rrdread reads all RRDs in a folder and converts their names to metric names. It
// does this PASSES times, and prints the total number of points, for
// pkg/internal/tools/bench. Usage: rrdread FOLDER SINCE PASSES.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "rrdread:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("usage: rrdread FOLDER SINCE PASSES")
	}
	since, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return err
	}
	passes, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	r := rrdfile.NewReader()
	defer r.Close()
	naming, _ := rrdfile.NamingOf("default", nil)
	points := 0
	for range passes {
		files, err := os.ReadDir(args[0])
		if err != nil {
			return err
		}
		for _, f := range files {
			if naming(f.Name()) == "" {
				return fmt.Errorf("no name for %s", f.Name())
			}
			got, err := r.Read(filepath.Join(args[0], f.Name()), since)
			if err != nil {
				return err
			}
			points += len(got.Series[0].Points)
		}
	}
	fmt.Println(points)
	return nil
}
