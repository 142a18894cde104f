"""Runs many concurrent uploads and downloads of a file, as fast as the server allows, and checks every byte.

Standard input is the output of create_attachments.py: the first line is what all downloads read, the others are
uploaded to. No transfer may take less than LEAST_SECONDS, so that all of them must be under way in the middle.
"""

import asyncio
import hashlib
import socket
import sys
import time
import urllib.request
from urllib.parse import urlsplit

LEAST_SECONDS = 20
CHUNK = 256 * 1024

api, content_type, path = sys.argv[1:]
with open(path, "rb") as file:
    content = memoryview(file.read())
md5 = hashlib.md5(content).hexdigest()
running = 0


async def pace(started, moved):
    """Waits until the rate limit allows `moved` bytes."""
    due = started + LEAST_SECONDS * moved / len(content)
    await asyncio.sleep(max(0, due - time.monotonic()))


async def request(method, url, headers):
    """Sends the head of a request."""
    parts = urlsplit(url)
    target = parts.path + ("?" + parts.query if parts.query else "")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {parts.netloc}", "Connection: close", *headers]
    sock = socket.socket()
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (parts.hostname, parts.port))
    await loop.sock_sendall(sock, "\r\n".join([*lines, "", ""]).encode())
    return sock


async def response(sock):
    """Reads the head of a response; returns it and the bytes read beyond it."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = await asyncio.get_running_loop().sock_recv(sock, CHUNK)
        assert more, f"the connection ended within the header: {received!r}"
        received += more
    header, rest = received.split(b"\r\n\r\n", 1)
    header = header.decode().lower()
    assert header.startswith("http/1.1 200 "), header
    return header, rest


async def upload(url, bar=True):
    headers = [f"Content-Type: {content_type}", f"Content-Length: {len(content)}"]
    with await request("PUT", url, headers) as sock:
        started = time.monotonic()
        for offset in range(0, len(content), CHUNK):
            if bar:
                await pace(started, offset)
            await asyncio.get_running_loop().sock_sendall(sock, content[offset : offset + CHUNK])
        header, _ = await response(sock)
    assert f'etag: "{md5}"' in header, header


async def download(url):
    with await request("GET", url, []) as sock:
        started = time.monotonic()
        _, piece = await response(sock)
        digest, received = hashlib.md5(), 0
        while piece:
            digest.update(piece)
            received += len(piece)
            await pace(started, received)
            piece = await asyncio.get_running_loop().sock_recv(sock, CHUNK)
    assert (received, digest.hexdigest()) == (len(content), md5), f"{received} bytes, or not the right ones"


async def count(transfer):
    global running
    running += 1
    await transfer
    running -= 1


def connections():
    """Returns the number of open connections by the server's metrics, without this request's."""
    with urllib.request.urlopen(f"{api}/metrics") as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("haversack_connections "):
                return int(line.split()[1]) - 1
    raise AssertionError("no haversack_connections in /metrics")


async def check_the_middle(expected):
    await asyncio.sleep(LEAST_SECONDS / 2)
    seen = await asyncio.to_thread(connections)
    print(f"# halfway: {running} transfers run, the server has {seen} connections", file=sys.stderr)
    assert running == expected and seen >= expected, "the transfers do not overlap"


async def main():
    source, *targets = [line.split() for line in sys.stdin]
    await upload(source[1], bar=False)
    transfers = [download(source[2]) for _ in targets] + [upload(target[1]) for target in targets]
    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for transfer in transfers:
            group.create_task(count(transfer))
        group.create_task(check_the_middle(len(transfers)))
    seconds = time.monotonic() - started
    rate = len(transfers) * len(content) / 1e6 / seconds
    print(f"# {len(transfers)} transfers, all bytes correct, {seconds:.0f} s, {rate:.0f} MB/s together", file=sys.stderr)


asyncio.run(main())
