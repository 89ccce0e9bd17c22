package clickhouse

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
)

// serverError is an error response from a server. code is the code of ClickHouse's
// exception, or 0 if the error does not come from ClickHouse.
type serverError struct {
	host   string
	status int
	code   int
	text   string
}

func (e *serverError) Error() string {
	if e.code == 0 {
		return fmt.Sprintf("%s: HTTP status %d: %s", e.host, e.status, e.text)
	}
	return fmt.Sprintf("%s: %s (code %d)", e.host, e.text, e.code)
}

var exception = regexp.MustCompile(`(?s)^Code: (\d+)[,.](?: e\.displayText\(\) =)? ?(?:DB::[A-Za-z]*Exception|Poco::Exception|std::exception|Coordination::Exception|zkutil::KeeperException)?:? ?(.*)$`)

var nodeException = regexp.MustCompile(`(?s)^There was an error on \[[^\]]*\]: .*?Code: (\d+)[,.]`)

// answerError converts an error response to a serverError. code is the exception code
// in the response's header, and text is the response's body.
func answerError(host string, status int, code, text string) *serverError {
	e := &serverError{host: host, status: status}
	e.code, _ = strconv.Atoi(code) // 0 if not from ClickHouse
	if m := exception.FindStringSubmatch(text); m != nil {
		e.code, _ = strconv.Atoi(m[1])
		text = m[2]
	}
	// For an ON CLUSTER statement, use the code of the node's error.
	if m := nodeException.FindStringSubmatch(text); m != nil {
		e.code, _ = strconv.Atoi(m[1])
	}
	text, _, _ = strings.Cut(text, ", e.what() = ")
	// Make text one printable line, because it may come from any server.
	text = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))), " ")
	if len(text) > 500 {
		text = strings.ToValidUTF8(text[:500], "") + "…"
	}
	e.text = text
	return e
}

// ClickHouse's exception codes, from dbms/src/Common/ErrorCodes.cpp.
const (
	codeNoSuchColumn    = 16
	codeDuplicateColumn = 15
	codeIllegalColumn   = 44
	codeTableExists     = 57
	codeUnknownTable    = 60
	codeUnknownDatabase = 81
	codeUnknownUser     = 192
	codeWrongPassword   = 193
	codeRequired        = 194
	codeAuthentication  = 516
	codeAccessDenied    = 497
	codeReadonly        = 164
	codeTimeout         = 159
	codeNotInBlock      = 10
	codeKeeper          = 999
)

// limitCodes lists the codes of errors that come from the rights or the limits of the
// user, and not from the data.
var limitCodes = map[int]bool{
	0:                true, // of a proxy, see serverError
	codeAccessDenied: true,
	codeReadonly:     true,
	158:              true, // TOO_MANY_ROWS
	160:              true, // TOO_SLOW
	290:              true, // LIMIT_EXCEEDED
	307:              true, // TOO_MANY_BYTES
	396:              true, // TOO_MANY_ROWS_OR_BYTES
}

// transientCodes lists the codes of transient exceptions.
var transientCodes = map[int]bool{
	3:   true, // UNEXPECTED_END_OF_FILE, from a node that disconnected
	32:  true, // ATTEMPT_TO_READ_AFTER_EOF
	74:  true, // CANNOT_READ_FROM_FILE_DESCRIPTOR
	75:  true, // CANNOT_WRITE_TO_FILE_DESCRIPTOR, like a full disk
	95:  true, // CANNOT_READ_FROM_SOCKET
	96:  true, // CANNOT_WRITE_TO_SOCKET
	101: true, // UNEXPECTED_PACKET_FROM_CLIENT
	102: true, // UNEXPECTED_PACKET_FROM_SERVER
	159: true, // TIMEOUT_EXCEEDED
	173: true, // CANNOT_ALLOCATE_MEMORY
	198: true, // DNS_ERROR
	201: true, // QUOTA_EXPIRED, until its interval ends
	202: true, // TOO_MANY_SIMULTANEOUS_QUERIES
	203: true, // NO_FREE_CONNECTION
	204: true, // CANNOT_FSYNC
	209: true, // SOCKET_TIMEOUT
	210: true, // NETWORK_ERROR
	225: true, // NO_ZOOKEEPER
	236: true, // ABORTED
	241: true, // MEMORY_LIMIT_EXCEEDED
	242: true, // TABLE_IS_READ_ONLY, without ZooKeeper
	243: true, // NOT_ENOUGH_SPACE
	244: true, // UNEXPECTED_ZOOKEEPER_ERROR
	252: true, // TOO_MANY_PARTS
	254: true, // NO_ACTIVE_REPLICAS
	274: true, // AIO_READ_ERROR
	275: true, // AIO_WRITE_ERROR
	278: true, // LEADERSHIP_LOST
	279: true, // ALL_CONNECTION_TRIES_FAILED
	285: true, // TOO_FEW_LIVE_REPLICAS
	286: true, // UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
	292: true, // LEADERSHIP_CHANGED
	319: true, // UNKNOWN_STATUS_OF_INSERT
	341: true, // UNFINISHED
	364: true, // RECEIVED_ERROR_TOO_MANY_REQUESTS
	369: true, // ALL_REPLICAS_ARE_STALE
	384: true, // PART_IS_TEMPORARILY_LOCKED
	394: true, // QUERY_WAS_CANCELLED
	416: true, // REPLICA_STATUS_CHANGED
	425: true, // SYSTEM_ERROR
	439: true, // CANNOT_SCHEDULE_TASK, for lack of threads
	473: true, // DEADLOCK_AVOIDED
	517: true, // CANNOT_ASSIGN_ALTER
	519: true, // NO_REMOTE_SHARD_AVAILABLE
	529: true, // NOT_A_LEADER
	999: true, // KEEPER_EXCEPTION
}

// fileCodes lists the codes of exceptions that are transient if their message matches
// transientSystem. Such a message reports a full or failed disk, or a lack of memory or
// file descriptors.
var fileCodes = map[int]bool{
	76:   true, // CANNOT_OPEN_FILE
	77:   true, // CANNOT_CLOSE_FILE
	88:   true, // CANNOT_TRUNCATE_FILE
	172:  true, // CANNOT_CREATE_DIRECTORY
	424:  true, // CANNOT_LINK
	1000: true, // POCO_EXCEPTION
	1001: true, // STD_EXCEPTION
	1002: true, // UNKNOWN_EXCEPTION
}

var transientSystem = regexp.MustCompile(`No space left|Disk quota exceeded|Read-only file system|Too many open files|Cannot allocate memory|bad_alloc|Input/output error`)

// codeOf returns the code of the ClickHouse exception in err, or 0.
func codeOf(err error) int {
	var se *serverError
	if errors.As(err, &se) {
		return se.code
	}
	return 0
}

// classify marks transient errors as store.ErrUnavailable and store.ErrTransient. It
// adds hints to some permanent errors.
func classify(err error) error {
	if err == nil || errors.Is(err, store.ErrTransient) || errors.Is(err, context.Canceled) {
		return err
	}
	var se *serverError
	if errors.As(err, &se) {
		switch {
		case transientCodes[se.code], se.code == 0 && (se.status >= 502 && se.status <= 504 || se.status == http.StatusTooManyRequests),
			fileCodes[se.code] && transientSystem.MatchString(se.text), se.code == 1000 && strings.Contains(se.text, "Timeout"):
			return sqlstore.Transient(err)
		case se.code == codeUnknownUser, se.code == codeWrongPassword, se.code == codeRequired, se.code == codeAuthentication:
			return hint.Add(err, "give the password in CLICKHOUSE_PASSWORD or ?password-file=FILE, not on the command line")
		case se.code == codeAccessDenied, se.code == codeReadonly:
			return hint.Add(err, "the user needs the rights to read, insert into, create and alter tables of the database")
		case se.code == 0:
			return hint.Add(err, "is it the port of ClickHouse's HTTP interface?")
		}
		return err
	}
	// An invalid certificate is permanent.
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Op == "remote error" && refusal.MatchString(op.Err.Error()):
		return hint.Add(err, "a server that wants certificates of its clients needs cert=FILE and key=FILE, of an authority that it knows")
	case errors.As(err, &unknown):
		return hint.Add(err, "name the authority of the server's certificate with ca=FILE")
	case errors.As(err, &name), errors.As(err, &invalid),
		errors.As(err, &cert), errors.As(err, &record):
		return err
	}
	var ne net.Error
	if errors.As(err, &ne) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errTimeout) || strings.Contains(err.Error(), "server closed idle connection") {
		return sqlstore.Transient(err)
	}
	return err
}

// refusal matches TLS alerts from a server that requires a certificate or rejects
// the client's certificate. crypto/tls has no types for these alerts.
var refusal = regexp.MustCompile(`certificate|access denied|handshake failure|protocol version|insufficient security`)
