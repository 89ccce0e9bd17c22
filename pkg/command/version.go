package command

import (
	"runtime/debug"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/textfile"
)

// versionString returns the text that --version prints after the name of the program.
func versionString() string {
	b := currentBuild()
	return b.Version + " " + b.Go + " " + b.Platform + "\nreaders: " + strings.Join(b.Readers, ", ")
}

func currentVersion() string {
	info, _ := debug.ReadBuildInfo()
	return describeVersion(releaseVersion, info)
}

// metricsFile returns the metrics file at the given path.
func metricsFile(path string) textfile.File {
	return textfile.File{Path: path, Version: currentVersion()}
}

// describeVersion returns release if it is not "", or else the version or commit that
// go build records from a git checkout. If go build recorded neither, as with
// -buildvcs=false, it returns "(development build)".
func describeVersion(release string, info *debug.BuildInfo) string {
	if release != "" {
		return release
	}
	if info == nil {
		return "(development build)"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	var revision, dirty string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	if revision == "" {
		return "(development build)"
	}
	return revision + dirty
}
