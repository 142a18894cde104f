"""Times first sends and uploads on two servers in turn.

    decoders.py NOW BEFORE KEY CORPUS ROUNDS

prints for each kind of file its name and the median milliseconds on both.
"""

import http.client
import json
import statistics
import sys
import time
import urllib.parse

now, before, key, corpus, rounds = sys.argv[1:]
FILES = [
    ("memo-m4a", "voice.m4a", "audio/x-m4a"),
    ("memo-mp3", "song-cbr-id3v2.mp3", "audio/mpeg"),
    ("memo-wav", "sound.wav", "audio/x-wav"),
    ("memo-amr", "voice.amr", "audio/amr"),
    ("memo-caf", "voice-pcm.caf", "audio/x-caf"),
    ("tiff", "scan-le.tiff", "image/tiff"),
    ("strip-jpeg", "photo-exif-rotated.jpg", "image/jpeg"),
]


class Server:
    def __init__(self, api):
        self.connection = http.client.HTTPConnection(urllib.parse.urlsplit(api).netloc)
        text = {"parts": [{"type": "text", "value": "hi"}]}
        created = self.call("POST", "/v3/chats", {"from": "+12025550160", "to": ["+12025550199"], "message": text})
        self.chat = created["chat"]["id"]

    def call(self, method, path, body):
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self.connection.request(method, path, json.dumps(body).encode(), headers)
        answer = self.connection.getresponse()
        content = answer.read()
        assert answer.status in (200, 201, 202), f"{path}: {answer.status} {content.decode()}"
        return json.loads(content)

    def measure(self, kind, name, media_type):
        """Returns the milliseconds of the request that decodes the file."""
        with open(f"{corpus}/{name}", "rb") as file:
            content = file.read()
        created = self.call("POST", "/v3/attachments",
                            {"filename": name, "content_type": media_type, "size_bytes": len(content)})
        started = time.perf_counter()
        self.connection.request("PUT", urllib.parse.urlsplit(created["upload_url"])._replace(scheme="", netloc="").geturl(),
                                content, created["required_headers"])
        answer = self.connection.getresponse()
        answer.read()
        assert answer.status == 200
        uploaded = time.perf_counter()
        if kind.startswith("memo"):
            self.call("POST", f"/v3/chats/{self.chat}/voicememo", {"attachment_id": created["attachment_id"]})
        elif kind == "tiff":
            part = {"type": "media", "attachment_id": created["attachment_id"]}
            self.call("POST", f"/v3/chats/{self.chat}/messages", {"message": {"parts": [part]}})
        else:
            return (uploaded - started) * 1000
        return (time.perf_counter() - uploaded) * 1000


servers = [Server(now), Server(before)]
for kind, name, media_type in FILES:
    times = [[], []]
    # Round 0 is a warm-up.
    for number in range(int(rounds) + 1):
        for server, own in zip(servers, times):
            took = server.measure(kind, name, media_type)
            if number:
                own.append(took)
    print(kind, *(f"{statistics.median(own):.2f}" for own in times))
