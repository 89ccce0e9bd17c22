package stream

// The acknowledged mode, see tstatrepo-ack(7): an exporter's first line is
// "#tstatrepo-ack 1 SESSION". What follows is the same as without it, but
// for lines that begin with '#'; the endpoint answers "ack N": the lines up to
// byte N after the first line are acked.
const (
	ackHello   = "#tstatrepo-ack"
	ackVersion = "1"
	ackProbe   = "#probe "
)
