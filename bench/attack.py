"""Runs one attack of bench/attack.sh and prints its result line.

    attack.py list
    attack.py run ATTACK API KEY NEIGHBOUR_KEY PID FILES DATA_FOLDER SECONDS
    attack.py neighbour API KEY

The neighbour is a separate process with another key and another source address (127.0.0.2). It creates attachments one
after the other, first on an idle server, then under the attack, until its standard input ends. The attacker runs at a lower
priority, so that the results show the server and not the contention of the clients.
"""

import asyncio
import json
import os
import pathlib
import statistics
import sys
import time
import urllib.parse

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
FAULTS = REPOSITORY / "tests" / "faults"
ATTACKER_LINE, NEIGHBOUR_LINE, RECIPIENT = "+12025550160", "+12025550161", "+12025550199"
ATTACKS = {}


def attack(name):
    def register(function):
        ATTACKS[name] = function
        return function

    return register


class Client:
    """A client with one key and one source address, which opens a connection per request."""

    def __init__(self, api, key, address):
        url = urllib.parse.urlsplit(api)
        self.host, self.port, self.key, self.address = url.hostname, url.port, key, address

    async def connect(self):
        return await asyncio.open_connection(self.host, self.port, local_addr=(self.address, 0))

    def head(self, method, path, length, headers=()):
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}", f"Content-Length: {length}"]
        lines += [f"Authorization: Bearer {self.key}", "Content-Type: application/json", "Connection: close", *headers]
        return "\r\n".join(lines).encode() + b"\r\n\r\n"

    async def request(self, method, path, body=b"", headers=()):
        """Returns status and body; status 0 if there was no response."""
        writer = None
        try:
            reader, writer = await self.connect()
            writer.write(self.head(method, path, len(body), headers) + body)
            answer = await asyncio.wait_for(reader.read(-1), 60)
            head, _, content = answer.partition(b"\r\n\r\n")
            return int(head.split(b" ", 2)[1]), content
        except (OSError, asyncio.TimeoutError, IndexError, ValueError):
            return 0, b""
        finally:
            if writer:
                writer.close()

    async def call(self, method, path, body=None):
        status, content = await self.request(method, path, b"" if body is None else json.dumps(body).encode())
        assert status in (200, 201, 202), f"{method} {path}: {status} {content[:300]!r}"
        return json.loads(content)

    async def upload(self, name, media_type, content):
        created = await self.call("POST", "/v3/attachments",
                                  {"filename": name, "content_type": media_type, "size_bytes": len(content)})
        status, answer = await self.put(created["upload_url"], media_type, content)
        assert status == 200, f"{name}: {status} {answer[:300]!r}"
        return created["attachment_id"]

    async def put(self, url, media_type, content):
        path = url.split("/", 3)[3]
        reader, writer = await self.connect()
        head = f"PUT /{path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: {media_type}\r\n"
        writer.write(f"{head}Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content)
        answer = await asyncio.wait_for(reader.read(-1), 120)
        writer.close()
        return int(answer.split(b" ", 2)[1]), answer

    async def chat(self, line):
        text = {"parts": [{"type": "text", "value": "hi"}]}
        created = await self.call("POST", "/v3/chats", {"from": line, "to": [RECIPIENT], "message": text})
        return created["chat"]["id"]


class Attack:
    def __init__(self, client, files, seconds):
        self.client, self.files, self.until = client, files, time.monotonic() + seconds
        self.seconds, self.requests = seconds, 0

    def goes_on(self):
        return time.monotonic() < self.until

    async def flood(self, connections, request):
        """Repeats a request over this number of connections."""
        async def one():
            while self.goes_on():
                self.requests += 1
                try:
                    await request()
                except (AssertionError, OSError, ValueError, IndexError, asyncio.TimeoutError):
                    # Rejected, or the server has died.
                    await asyncio.sleep(0.01)

        await asyncio.gather(*(one() for _ in range(connections)))

    async def memo(self, name, media_type, connections=16):
        chat = await self.client.chat(ATTACKER_LINE)
        content = (FAULTS / name).read_bytes()

        async def send():
            attachment = await self.client.upload(name, media_type, content)
            body = json.dumps({"attachment_id": attachment}).encode()
            await self.client.request("POST", f"/v3/chats/{chat}/voicememo", body)

        await self.flood(connections, send)

    async def part(self, path, media_type, connections=16):
        content = path.read_bytes()

        async def send():
            attachment = await self.client.upload(path.name, media_type, content)
            message = {"parts": [{"type": "media", "attachment_id": attachment}]}
            body = {"from": ATTACKER_LINE, "to": [RECIPIENT], "message": message}
            await self.client.request("POST", "/v3/chats", json.dumps(body).encode())

        await self.flood(connections, send)

    async def uploads(self, path, media_type, connections):
        content = path.read_bytes()
        await self.flood(connections, lambda: self.client.upload(path.name, media_type, content))

    async def hold(self, count, start):
        """Opens connections, sends the start of a request on each, and holds them open until the end."""
        opened = []
        for _ in range(count):
            try:
                reader, writer = await asyncio.wait_for(self.client.connect(), 5)
                writer.write(start)
                opened.append((reader, writer))
                self.requests += 1
            except (OSError, asyncio.TimeoutError):
                break
        while self.goes_on():
            await asyncio.sleep(0.2)
        for _, writer in opened:
            writer.transport.abort()


@attack("quiet")
async def _(run):
    while run.goes_on():
        await asyncio.sleep(0.1)


@attack("sound-frames")
async def _(run):
    await run.memo("lpcm_frames.m4a", "audio/x-m4a")


@attack("sound-channels")
async def _(run):
    await run.memo("lpcm_channels.m4a", "audio/x-m4a")


@attack("sound-runs")
async def _(run):
    await run.memo("trun_count.m4a", "audio/x-m4a")


@attack("sound-rate")
async def _(run):
    await run.part(FAULTS / "caf_1hz.caf", "audio/x-caf")


@attack("picture-strips")
async def _(run):
    await run.part(run.files / "small_strips.tif", "image/tiff")


@attack("metadata-loops")
async def _(run):
    await run.uploads(run.files / "looping_directories.jpg", "image/jpeg", 4)


@attack("metadata-chunks")
async def _(run):
    await run.uploads(run.files / "many_chunks.png", "image/png", 4)


async def large_messages(run):
    chat = await run.client.chat(ATTACKER_LINE)
    # 1.5 MB: 50 texts of 10,000 three-byte characters, separated by media parts.
    file = await run.client.upload("a.txt", "text/plain", b"hello")
    texts = [{"type": "text", "value": "€" * 10_000}, {"type": "media", "attachment_id": file}] * 50
    body = json.dumps({"message": {"parts": texts}}, ensure_ascii=False).encode()
    for _ in range(100):
        await run.client.request("POST", f"/v3/chats/{chat}/messages", body)
    run.until = time.monotonic() + run.seconds
    return chat


@attack("pages-read")
async def _(run):
    chat = await large_messages(run)
    await run.flood(8, lambda: run.client.request("GET", f"/v3/chats/{chat}/messages?limit=100"))


@attack("pages-unread")
async def _(run):
    chat = await large_messages(run)
    await run.hold(64, run.client.head("GET", f"/v3/chats/{chat}/messages?limit=100", 0))


@attack("error-texts")
async def _(run):
    value = "\x7f" * 8_000_000
    body = json.dumps({"filename": "a", "content_type": value, "size_bytes": 1}).encode()
    await run.flood(16, lambda: run.client.request("POST", "/v3/attachments", body))


@attack("bodies-unfinished")
async def _(run):
    length = 8 * 1024 * 1024
    await run.hold(128, run.client.head("POST", "/v3/chats", length) + b"{" + b" " * (length - 2))


@attack("stickers")
async def _(run):
    file = await run.client.upload("a.png", "image/png", (REPOSITORY / "tests/corpus/screenshot.png").read_bytes())
    unknown = "00000000-0000-4000-8000-000000000000"
    stickers = [{"range": [0, 1], "attachment_id": file}] * 4999 + [{"range": [0, 1], "attachment_id": unknown}]
    parts = [{"type": "text", "value": "x", "inline_stickers": stickers}]
    body = json.dumps({"from": ATTACKER_LINE, "to": [RECIPIENT], "message": {"parts": parts}}).encode()
    await run.flood(64, lambda: run.client.request("POST", "/v3/chats", body))


@attack("chat-filter")
async def _(run):
    async def create(number):
        text = {"parts": [{"type": "text", "value": "hi"}]}
        await run.client.call("POST", "/v3/chats",
                              {"from": ATTACKER_LINE, "to": [f"+1202{number:07}"], "message": text})

    for first in range(0, 5000, 50):
        await asyncio.gather(*(create(2_000_000 + first + n) for n in range(50)))
    run.until = time.monotonic() + run.seconds
    path = "/v3/chats?limit=100&to=%2B12029999999"
    await run.flood(256, lambda: run.client.request("GET", path))


@attack("one-upload-url")
async def _(run):
    length = 100 * 1024 * 1024
    body = {"filename": "a.pdf", "content_type": "application/pdf", "size_bytes": length}
    created = await run.client.call("POST", "/v3/attachments", body)
    path = created["upload_url"].split("/", 3)[3]
    head = f"PUT /{path} HTTP/1.1\r\nHost: {run.client.host}\r\nContent-Type: application/pdf\r\n"
    start = f"{head}Content-Length: {length}\r\n\r\n".encode() + b"%PDF-1.7\n" + b"x" * (length // 2)
    await run.hold(30, start)


@attack("half-headers")
async def _(run):
    await run.hold(4096, b"GET / HTTP/1.1\r\nHost: x\r\nX-")


@attack("downloads-unread")
async def _(run):
    file = await run.client.upload("a.txt", "text/plain", b"x" * 16 * 1024 * 1024)
    path = urllib.parse.urlsplit((await run.client.call("GET", f"/v3/attachments/{file}"))["download_url"]).path
    await run.hold(500, run.client.head("GET", path, 0))


def descendants(pid):
    found = [pid]
    for entry in os.listdir("/proc"):
        try:
            fields = open(f"/proc/{entry}/stat").read().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        if int(fields[1]) == pid:
            found.append(int(entry))
    return found


def resident(pid):
    try:
        return int(open(f"/proc/{pid}/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def cpu_seconds(pid):
    if not os.path.exists(f"/proc/{pid}"):
        return float("nan")
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    # User and system time of the process and of its ended children.
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def temporary(folder):
    """Returns the size of all temporary files."""
    size = 0
    for path in folder.glob("*/unfinished-*/**/*"):
        try:
            size += path.stat().st_size
        except OSError:
            pass
    for path in folder.glob("unfinished-*/**/*"):
        try:
            size += path.stat().st_size
        except OSError:
            pass
    return size


async def watch(pid, folder, peaks):
    while True:
        peaks["memory"] = max(peaks["memory"], sum(map(resident, descendants(pid))))
        peaks["temporary"] = max(peaks["temporary"], temporary(folder))
        await asyncio.sleep(0.02)


async def neighbour(api, key):
    """Prints the milliseconds of each create, and 1 if it failed, one per line."""
    client = Client(api, key, "127.0.0.2")
    body = json.dumps({"filename": "a.txt", "content_type": "text/plain", "size_bytes": 5}).encode()
    loop = asyncio.get_running_loop()
    ended = loop.run_in_executor(None, sys.stdin.read)
    while not ended.done():
        started = time.perf_counter()
        status, _ = await client.request("POST", "/v3/attachments", body)
        print((time.perf_counter() - started) * 1000, int(status != 200))
        await asyncio.sleep(0.005)


async def observe(api, key, work):
    """Runs the neighbour beside some work, and returns its times and its number of failures."""
    # The neighbour starts with normal priority, before this process lowers its own.
    arguments = [sys.executable, __file__, "neighbour", api, key]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe)
    os.setpriority(os.PRIO_PROCESS, 0, 10)
    try:
        await work
    finally:
        output, _ = await process.communicate(b"")
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    rows = [line.split() for line in output.decode().splitlines()]
    return [float(row[0]) for row in rows], sum(int(row[1]) for row in rows)


async def main(name, api, key, neighbour_key, pid, files, folder, seconds):
    pid, folder, seconds = int(pid), pathlib.Path(folder), float(seconds)
    quiet, _ = await observe(api, neighbour_key, asyncio.sleep(2))
    run = Attack(Client(api, key, "127.0.0.1"), pathlib.Path(files), seconds)
    peaks = {"memory": 0, "temporary": 0}
    before = cpu_seconds(pid)
    watching = asyncio.create_task(watch(pid, folder, peaks))
    busy, failures = await observe(api, neighbour_key, attempt(name, run))
    watching.cancel()
    alive = os.path.exists(f"/proc/{pid}")
    used = cpu_seconds(pid) - before if alive else float("nan")
    print(f"{name:<20} {run.requests:>8} {peaks['memory'] / 2**20:>8.0f} {peaks['temporary'] / 2**20:>9.0f} {used:>7.1f} "
          f"{statistics.median(quiet):>12.1f} {statistics.median(busy):>5.1f}/{max(busy):<6.0f} {failures:>9}"
          + ("" if alive else "  THE SERVER DIED"), flush=True)


async def attempt(name, run):
    try:
        await ATTACKS[name](run)
    except (AssertionError, OSError) as error:
        print(f"# {name}: {error}", file=sys.stderr)


if sys.argv[1] == "list":
    print(*ATTACKS)
elif sys.argv[1] == "neighbour":
    asyncio.run(neighbour(*sys.argv[2:]))
else:
    asyncio.run(main(*sys.argv[2:]))
