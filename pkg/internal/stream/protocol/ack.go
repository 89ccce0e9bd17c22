// Package protocol implements the protocol between exporters and endpoints of a
// stream: connections, the wire format of lines, valid names, and acknowledged
// mode.
package protocol

// Elements of acknowledged mode; see tstatrepo-ack(7). The exporter's first line is
// "#tstatrepo-ack 1 SESSION". It then sends the same lines as in plain mode and, between
// them, protocol lines that begin with '#'. The endpoint sends "ack N" when all lines up
// to byte N after the first line are acked.
const (
	AckHello   = "#tstatrepo-ack"
	AckVersion = "1"
	AckProbe   = "#probe "
)
