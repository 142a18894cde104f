"""Another server, whose files the stories send by URL.

It has two ports: one for HTTPS, which holds whatever was PUT to the other one, and that other one, plain HTTP, for the
stories only. GET /requests there tells what was asked for over HTTPS so far.

    origin.py CA_FILE

writes the authority that signed its certificate to CA_FILE, then prints both ports, and runs until it is killed.
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

# By path and query, as they stand in the request.
files: dict[str, bytes] = {}
requests: list[dict[str, str | int | None]] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Header and body are two writes, and the second one is not to wait for an acknowledgement.
    disable_nagle_algorithm = True

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        # Neither of them has a body (RFC 9110 section 8.6).
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        # The other side need not take all of a file that is too large for it.
        with contextlib.suppress(OSError):
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Origin(Handler):
    """What the server under test talks to."""

    def do_GET(self) -> None:
        # A story can keep one file back, to see what comes of the others.
        for seconds in parse_qs(urlsplit(self.path).query).get("wait", []):
            time.sleep(float(seconds))
        condition = self.headers["If-None-Match"]
        content = files.get(self.path)
        etag = f'"{hashlib.sha256(content or b"").hexdigest()}"'
        status = 404 if content is None else 304 if condition == etag else 200
        # Before the answer, so that whoever has seen its effects finds it in the list.
        requests.append({"path": self.path, "if_none_match": condition, "status": status})
        if status == 404:
            self.answer(404)
        elif status == 304:
            self.answer(304, ETag=etag)
        else:
            # Says nothing about the type: that is for the other side to find out.
            self.answer(200, content or b"", ETag=etag, **{"Content-Type": "application/octet-stream"})


class Control(Handler):
    """What the stories talk to."""

    def do_PUT(self) -> None:
        files[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(204)

    def do_GET(self) -> None:
        self.answer(200, json.dumps(requests).encode())


def main() -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(sys.argv[1])
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)

    origin = ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    # The handshake is left to the thread of the connection, so that a slow one holds up nobody else.
    origin.socket = tls.wrap_socket(origin.socket, server_side=True, do_handshake_on_connect=False)
    control = ThreadingHTTPServer(("127.0.0.1", 0), Control)
    threading.Thread(target=origin.serve_forever, daemon=True).start()
    print(origin.server_port, control.server_port, flush=True)
    control.serve_forever()


if __name__ == "__main__":
    main()
