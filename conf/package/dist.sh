#!/bin/sh
# Builds everything that a release consists of into dist/: packages for Debian
# and RPM, archives, a bill of materials and checksums. Equal sources, VERSION,
# SOURCE_DATE_EPOCH and Go give equal files.
#   VERSION            of the release, like 0.9.0 or 0.9.1-rc.1; default: of the tag
#   SOURCE_DATE_EPOCH  time of the files; default: of the commit
#   TARGETS            default: linux/amd64 linux/arm64 darwin/arm64
set -eu
cd "$(dirname "$0")/../.."

NFPM=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2
CYCLONEDX=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0

if [ -z "${VERSION:-}" ]; then
	VERSION=$(git describe --tags --match 'v*' 2>/dev/null | sed 's/^v//') || true
	VERSION=${VERSION:-0.9.0-dev.$(git rev-parse --short HEAD)}
fi
export VERSION
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}"
export CGO_ENABLED=0 TZ=UTC LC_ALL=C
unset GOOS GOARCH
umask 022

stage=dist/stage
rm -rf dist
mkdir -p "$stage"
trap 'rm -rf "$stage"' EXIT

# The licenses of the modules that are linked, each once.
{
	echo "Licenses of the modules in this program, besides its own."
	go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/tstatrepo | sort -u |
		while read -r path version dir; do
			for file in "$dir"/LICENSE* "$dir"/LICENCE* "$dir"/COPYING* "$dir"/NOTICE*; do
				[ -f "$file" ] || continue
				printf '\n==== %s %s, %s\n\n' "$path" "$version" "$(basename "$file")"
				cat "$file"
			done
		done
	printf '\n==== Go %s, LICENSE\n\n' "$(go env GOVERSION)"
	cat "$(go env GOROOT)/LICENSE"
} >"$stage/third-party-licenses"
gzip -9nc "$stage/third-party-licenses" >"$stage/third-party-licenses.gz"
gzip -9nc CHANGELOG.md >"$stage/changelog.gz"
cat >"$stage/copyright" <<END
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: tstatrepo
Source: https://github.com/tstatrepo/tstatrepo

Files: *
Copyright: $(date -u -d "@$SOURCE_DATE_EPOCH" +%Y) The tstatrepo authors
License: Apache-2.0
 On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.
 The licenses of linked modules are in third-party-licenses.gz beside this file.
END
cat >"$stage/changelog.yaml" <<END
- semver: $VERSION
  date: $(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
  packager: The tstatrepo authors <tstatrepo@users.noreply.github.com>
  deb:
    urgency: medium
    distributions: [unstable]
  changes:
    - note: "See CHANGELOG.md."
END
for page in man/*.?; do
	section=man${page##*.}
	mkdir -p "$stage/$section"
	gzip -9nc "$page" >"$stage/$section/$(basename "$page").gz"
done

for target in ${TARGETS:-linux/amd64 linux/arm64 darwin/arm64}; do
	os=${target%/*} ARCH=${target#*/}
	export ARCH
	GOOS=$os GOARCH=$ARCH make --no-print-directory build LIBRRD= OUT="$stage/tstatrepo" VERSION="$VERSION"
	if [ "$os" = linux ]; then
		go run "$NFPM" package -f conf/package/nfpm.yaml -p deb -t dist/
		go run "$NFPM" package -f conf/package/nfpm.yaml -p rpm -t dist/
	fi
	name=tstatrepo-$VERSION-$os-$ARCH
	mkdir "$stage/$name"
	cp -R "$stage/tstatrepo" "$stage/third-party-licenses" LICENSE README.md CHANGELOG.md completions conf "$stage/$name"
	rm -rf "$stage/$name/conf/package" "$stage/$name/conf/prometheus/tstatrepo.rules.test.yml"
	mkdir "$stage/$name/man"
	cp man/*.[157] "$stage/$name/man"
	tar -C "$stage" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=u+rwX,go+rX,go-w -cf - "$name" |
		gzip -9n >"dist/$name.tar.gz"
done
go run "$CYCLONEDX" app -json -licenses -std -noserial -notimestamp -main cmd/tstatrepo -output "dist/tstatrepo-$VERSION.cdx.json" . 2>"$stage/sbom.log" ||
	{ cat "$stage/sbom.log" >&2; exit 1; }
rm -rf "$stage"
(cd dist && sha256sum -- *.* >.sums && mv .sums SHA256SUMS)
ls -l dist
