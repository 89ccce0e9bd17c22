// Package man holds the man pages, which are generated from the Markdown files
// beside them.
package man

import "embed"

// Pages holds the man pages by file name, such as tstatrepo-serve.1.
//
//go:embed *.1 *.5 *.7
var Pages embed.FS
