"""Emulates one round of mPlane's pair of RRD exporter and importer.

The exporter fetches every file, makes a JSON list of all points and posts it;
the importer decodes it, classifies each name and sends lines over one
connection for the POST: exporter.py FOLDER SINCE UNTIL CARBON_PORT
"""
import http.client
import http.server
import json
import os
import socket
import sys
import threading

import rrdtool

folder, since, until, port = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])


def classify(name):
    """Far less work than the importer's chain of tests."""
    fields = name.replace(".rrd", "").replace(".", "_").split("_")
    return ".".join(fields)


class Importer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        points = json.loads(self.rfile.read(int(self.headers["Content-Length"])).decode("utf-8"))
        carbon = socket.create_connection(("127.0.0.1", port))
        text = ""
        for name, at, value in points:
            text += "tstat.%s.%s %f %f\n" % ("p", classify(name), float(value), float(at))
        carbon.sendall(text.encode("utf-8"))
        carbon.shutdown(socket.SHUT_WR)
        carbon.recv(1)
        carbon.close()
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Importer)
child = os.fork()
if child == 0:  # the importer is a process of its own
    server.serve_forever()
result = []
for name in os.listdir(folder):
    (start, _, step), _, rows = rrdtool.fetch(os.path.join(folder, name), "AVERAGE", "--resolution", "300", "-s", since, "-e", until)
    at = start
    for row in rows:
        if row[0] is not None:
            at += step
            result.append((name, float(at), float(row[0])))
conn = http.client.HTTPConnection("127.0.0.1", server.server_port)
conn.request("POST", "/register/result/indirect_export", json.dumps(result).encode("utf-8"), {"content-type": "application/json"})
if conn.getresponse().status != 200:
    sys.exit("not 200")
print(len(result))
os.kill(child, 9)
