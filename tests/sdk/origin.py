"""The origin of files that the stories send by URL.

Listens on two ports: HTTPS for the server under test, and plain HTTP for the stories, which put files there and read the
requests received over HTTPS by GET /requests.

    origin.py CA_FILE

Writes the authority of its certificate to CA_FILE, prints both ports, and runs until it is killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import trustme

# Files by path and query, as in the request.
files: dict[str, bytes] = {}
requests: list[dict[str, str | int | None]] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body are two writes, and the second must not wait for an acknowledgement.
    disable_nagle_algorithm = True

    def respond(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        # A response with these statuses has no Content-Length (RFC 9110 section 8.6).
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        # The server disconnects if the file is too large.
        with contextlib.suppress(OSError):
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Origin(Handler):
    """Serves files to the server under test."""

    def do_GET(self) -> None:
        # A story can delay a file by its query.
        for seconds in parse_qs(urlsplit(self.path).query).get("wait", []):
            time.sleep(float(seconds))
        condition = self.headers["If-None-Match"]
        content = files.get(self.path)
        etag = f'"{hashlib.sha256(content or b"").hexdigest()}"'
        status = 404 if content is None else 304 if condition == etag else 200
        # Recorded before the response, so that a client that has the response finds the request in the list.
        requests.append({"path": self.path, "if_none_match": condition, "status": status})
        if status == 404:
            self.respond(404)
        elif status == 304:
            self.respond(304, ETag=etag)
        else:
            # A generic type, so that the server must detect it.
            self.respond(200, content or b"", ETag=etag, **{"Content-Type": "application/octet-stream"})


class Control(Handler):
    """Receives files from the stories, and lists the requests of the server."""

    def do_PUT(self) -> None:
        files[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.respond(204)

    def do_GET(self) -> None:
        self.respond(200, json.dumps(requests).encode())


def main() -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(sys.argv[1])
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)

    origin = ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    # The thread of the connection does the handshake, so that a slow one does not block others.
    origin.socket = tls.wrap_socket(origin.socket, server_side=True, do_handshake_on_connect=False)
    control = ThreadingHTTPServer(("127.0.0.1", 0), Control)
    threading.Thread(target=origin.serve_forever, daemon=True).start()
    print(origin.server_port, control.server_port, flush=True)
    control.serve_forever()


if __name__ == "__main__":
    main()
