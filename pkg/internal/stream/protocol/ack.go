// Package protocol is the protocol between the two ends of a stream: how they
// connect, the form of lines on the wire, the names in them, and the
// acknowledged mode.
package protocol

// The acknowledged mode, see tstatrepo-ack(7): an exporter's first line is
// "#tstatrepo-ack 1 SESSION". The rest of the stream is the same as in the
// plain mode, except for lines that begin with '#'. The endpoint sends "ack N"
// when the lines up to byte N after the first line are acked.
const (
	AckHello   = "#tstatrepo-ack"
	AckVersion = "1"
	AckProbe   = "#probe "
)
