package tstat

import (
	"bytes"
	"slices"
)

// Privacy classifies the personal information in a column's values.
type Privacy uint8

const (
	// Unclassified columns are known only from a file's header. Fields without a column
	// are Unclassified too. Nothing is known about their values.
	Unclassified Privacy = iota
	// Impersonal columns hold counters, times, ports and protocol fields.
	Impersonal
	ClientAddress   // address of the flow's client
	ServerAddress   // address of the flow's server
	ResolverAddress // address of the resolver that answered the query for the flow's name
	Answer          // DNS answer: an address, a name or other text
	HostName        // name of a host that a person contacted or looked up
	// Content columns hold what a person requested or sent: paths, cookies,
	// identifiers.
	Content
	// FreeText columns hold other text that a client or a server sent. It says nothing
	// about a person, but may contain addresses.
	FreeText
	ClientInternal     // whether the client is in Tstat's internal networks
	ServerInternal     // whether the server is in Tstat's internal networks
	ClientAnonymized   // whether the client's address is anonymized
	ServerAnonymized   // whether the server's address is anonymized
	ResolverAnonymized // whether the resolver's address is anonymized
)

// privacies maps the class names in layouts.tsv to the classes.
var privacies = map[string]Privacy{
	"other": Impersonal, "client": ClientAddress, "server": ServerAddress, "resolver": ResolverAddress,
	"answer": Answer, "name": HostName, "content": Content, "text": FreeText,
	"client-internal": ClientInternal, "server-internal": ServerInternal,
	"client-anonymized": ClientAnonymized, "server-anonymized": ServerAnonymized, "resolver-anonymized": ResolverAnonymized,
}

// HasAddresses reports whether lines of type t contain client or server addresses.
func (t *LogType) HasAddresses() bool {
	return slices.ContainsFunc(t.Columns, func(c Column) bool { return c.Privacy == ClientAddress || c.Privacy == ServerAddress })
}

// removed is the start of the lines that AppendRemoved writes in place of removed lines.
const removed = "#! "

// AppendRemoved appends a line to dst, with its newline, to replace a line that had to be
// removed from a log. A Reader of any log type counts the appended line as a reject with
// the given reason. Other programs skip it as a comment.
func AppendRemoved(dst []byte, reason string) []byte {
	return append(append(append(dst, removed...), reason...), '\n')
}

// RemovedReason returns the reason in a line that AppendRemoved wrote, with or without
// its newline. ok is false for other lines.
func RemovedReason(line []byte) (reason string, ok bool) {
	text, ok := bytes.CutPrefix(line, []byte(removed))
	text = bytes.TrimSuffix(text, []byte{'\n'})
	return string(text[:min(len(text), 200)]), ok
}
