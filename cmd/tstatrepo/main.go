// Command tstatrepo stores the output of Tstat probes.
package main

import (
	"os"

	"github.com/tstatrepo/tstatrepo/pkg/command"
)

// version is set by release builds: -ldflags "-X main.version=v1.2.3".
var version string

func main() { os.Exit(command.Main(version)) }
