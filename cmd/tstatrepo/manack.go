package main

// ackPage returns tstatrepo-ack(7): the acknowledged mode for others who
// implement it.
func ackPage() []byte {
	p := newPage("tstatrepo-ack", 7, "lines of logs over TCP, with and without confirmation")
	p.section("DESCRIPTION")
	p.text("An exporter connects to an endpoint ('tstatrepo stream --listen') over TCP or TLS and sends lines of " +
		"Tstat's logs. This page describes what both send, for those who write an exporter or an endpoint.")
	p.section(`"PLAIN MODE"`)
	p.text("Each line is the absolute path of the log on the probe, a blank (0x20), the line as it is in the log, and a " +
		"newline (0x0a). Header lines of the log are sent like others. The path holds no blank, and its last part is the " +
		"name of a log. Lines of several logs may be mixed; those of one log are in their order.")
	p.literal("/var/lib/tstat/2016_03_24_21_37.out/log_tcp_complete 10.0.0.1 22102 ...")
	p.text("Over TLS tstatrepo sends this mode with TLS 1.2 only: with TLS 1.3 a connection is open for the exporter before the " +
		"endpoint has looked at its certificate, and what it sends until the endpoint refuses is lost.\n\n" +
		"The endpoint sends nothing. It leaves out a line that is not like this, that is longer than its limit (32 KiB) or " +
		"that has no newline when the connection ends.\n\n" +
		"What is on its way when a connection breaks is lost, and neither side knows how much.")
	p.section(`"ACKNOWLEDGED MODE"`)
	p.text("The first line of the exporter asks for it. It begins with '#', which no line of the plain mode does:")
	p.literal("#tstatrepo-ack 1 SESSION")
	p.text("1 is the version of the mode. SESSION names the exporter, with 1 to 64 letters, digits, '_' and '-', but not '-' first. SESSION stays the " +
		"same over reconnects and restarts, and is unique among the exporters of the endpoint.\n\n" +
		"The endpoint closes an older connection of the session, hands the lines it has of it to its consumers, and then answers:")
	p.literal("ack 0")
	p.text("or 'error TEXT', and closes the connection. An exporter that gets no answer within 10 seconds is not connected to " +
		"such an endpoint. It sends no line of a log before the answer.\n\n" +
		"Then the exporter sends lines as in the plain mode. A line that begins with '#' is one of this mode:")
	p.item("#probe NAME", "The lines that follow are of this probe, a name like SESSION. It counts if the endpoint knows no name "+
		"from a certificate or its settings. Other lines with '#' are rejected. An endpoint takes 4096 names, 1024 of one host; "+
		"a name unused for a day is replaced by a new one. A connection that announces one more gets 'error TEXT' and is closed.")
	p.text("The endpoint answers from time to time:")
	p.literal("ack N")
	p.text("N is decimal and never decreases. All required consumers of the endpoint have taken the lines up to byte N of the " +
		"connection, counted behind the newline of the first line, '#probe' lines included. Lines that were left out count as " +
		"taken. N is the end of a line. How durable 'taken' is depends on the consumer: written to standard output or " +
		"read by the command, synced with the names of file and folders for files, received by the kernel of a plain peer, acknowledged by JetStream, or " +
		"confirmed by the next endpoint.")
	p.section(`"AFTER A FAILURE"`)
	p.text("The exporter keeps the position in its logs that belongs to the last N, durably if it is to survive a crash of its own. When " +
		"it connects again it goes on there, at the begin of a line. So no line is lost, and what comes again is what was sent and " +
		"not confirmed: an exporter bounds it by sending no more than a window (--window) beyond the position it has saved.\n\n" +
		"When the exporter ends it waits for the confirmation of its last line and closes the connection.")
	p.section(`"EXAMPLE"`)
	p.text("E is the exporter, R the endpoint:")
	for _, line := range []string{
		"E: #tstatrepo-ack 1 7GQ3-1",
		"R: ack 0",
		"E: #probe turin",
		"E: /t/2016_03_24_21_37.out/log_udp_complete 10.0.0.1 53 ...",
		"R: ack 70",
	} {
		p.literal(line)
	}
	p.seeAlso("tstatrepo-stream(1)")
	return p.Bytes()
}
