"""Starts a server and prints the milliseconds until GET /healthz on a port answers 200; then stops it."""

import socket
import subprocess
import sys
import time

port = int(sys.argv[1])


def answers():
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return sock.recv(1024).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


assert not answers(), f"something answers on port {port} already"
started = time.perf_counter()
server = subprocess.Popen(sys.argv[2:], stdout=subprocess.DEVNULL)
try:
    while not answers():
        assert server.poll() is None, f"the server ended with {server.returncode}"
        assert time.perf_counter() - started < 30, "the server does not answer"
        time.sleep(0.0002)
    print(f"{(time.perf_counter() - started) * 1000:.1f}")
finally:
    server.terminate()
    server.wait()
