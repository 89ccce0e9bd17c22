// Package protocol is what the two ends of a stream agree on: how they connect,
// the form of lines on the wire, the names in them, and the acknowledged mode.
package protocol

// The acknowledged mode, see tstatrepo-ack(7): an exporter's first line is
// "#tstatrepo-ack 1 SESSION". What follows is the same as without it, but
// for lines that begin with '#'; the endpoint answers "ack N": the lines up to
// byte N after the first line are acked.
const (
	AckHello   = "#tstatrepo-ack"
	AckVersion = "1"
	AckProbe   = "#probe "
)
