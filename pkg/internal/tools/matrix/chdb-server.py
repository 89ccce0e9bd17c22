#!/usr/bin/env python3
"""A small HTTP server around chdb, ClickHouse's engine as a library.

It replaces clickhouse-server in tests. It has the same option, configuration and
HTTP interface, as far as tstatrepo uses them, but no users, TLS or replication.
"""
import os, re, sys, tempfile, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from chdb import session

with open(sys.argv[1].removeprefix("--config-file=")) as f:
    config = f.read()
setting = lambda name: re.search(f"<{name}>(.*?)</{name}>", config)[1]
engine = session.Session(setting("path"))
lock = threading.Lock()  # a session runs one query at a time
NOT_SETTINGS = {"query", "database", "default_format", "user", "password", "query_id", "wait_end_of_query", "session_id", "session_timeout",
                "compress", "decompress", "enable_http_compression", "send_progress_in_http_headers", "buffer_size"}
INSERT = re.compile(rb"(?is)^\s*insert\s+into\s+(.+?)\s+format\s+native\n")


def run(params, body):
    sql = params.get("query", "").encode()
    if sql and body:
        sql += b"\n"
    sql += body
    engine.query("use " + "`" + params.get("database", "default") + "`")
    for name, value in params.items():
        if name not in NOT_SETTINGS:
            engine.query(f"set {name} = '{value}'")
    insert = INSERT.match(sql)
    if not insert:
        return engine.query(sql.decode(), params.get("default_format", "TabSeparated")).bytes()
    # The data follows the line; its first byte may be a space.
    with tempfile.NamedTemporaryFile(suffix=".native", dir=setting("user_files_path")) as f:
        f.write(sql[insert.end():])
        f.flush()
        engine.query(f"insert into {insert[1].decode()} select * from file('{f.name}', 'Native')")
    return b""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, text, code=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        if code:
            self.send_header("X-ClickHouse-Exception-Code", code)
        self.end_headers()
        self.wfile.write(text)

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_POST(self):
        url, body = urlsplit(self.path), self.body()
        if url.path == "/ping":
            return self.answer(200, b"Ok.\n")
        try:
            with lock:
                text = run(dict(parse_qsl(url.query, keep_blank_values=True)), body)
        except Exception as e:
            code = re.search(r"Code: (\d+)", str(e))
            return self.answer(500, str(e).encode(), code and code[1])
        self.answer(200, text)

    do_GET = do_POST

    def log_message(self, *args):
        pass


os.makedirs(setting("user_files_path"), exist_ok=True)
ThreadingHTTPServer((setting("listen_host"), int(setting("http_port"))), Handler).serve_forever()
