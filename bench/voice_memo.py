"""Times voice memos.

    voice_memo.py API KEY SENDS OUTPUT

reads one format a line from standard input (name, file, declared type, and the codec for ffmpeg by hand or -), and
prints for each its name and the median milliseconds of a first send, a later send, a message with the same file, and
the work by hand, which writes to OUTPUT.
"""

import http.client
import json
import statistics
import subprocess
import sys
import time
import urllib.parse
import urllib.request

api, key, sends, output = sys.argv[1:]
headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
# One persistent connection.
connection = http.client.HTTPConnection(urllib.parse.urlsplit(api).netloc)
connection.connect()


def call(method, path, body=None):
    """Returns the status, the body, and the milliseconds until its end."""
    content = None if body is None else json.dumps(body).encode()
    started = time.perf_counter()
    connection.request(method, path, content, headers)
    response = connection.getresponse()
    answer = response.read()
    took = (time.perf_counter() - started) * 1000
    assert response.status in (200, 201, 202), f"{method} {path}: {response.status} {answer.decode()}"
    return json.loads(answer), took


def upload(path, content_type):
    with open(path, "rb") as file:
        content = file.read()
    file = {"filename": path.rsplit("/", 1)[1], "content_type": content_type, "size_bytes": len(content)}
    created, _ = call("POST", "/v3/attachments", file)
    request = urllib.request.Request(created["upload_url"], content, created["required_headers"], method="PUT")
    urllib.request.urlopen(request).close()
    return created["attachment_id"]


def wait_until_delivered(message_id):
    """Waits for the delivery, which would slow down the next request."""
    deadline = time.monotonic() + 10
    while call("GET", f"/v3/messages/{message_id}")[0]["delivery_status"] != "delivered":
        assert time.monotonic() < deadline, f"{message_id} is not delivered after 10 s"
        time.sleep(0.001)


def send_memo(attachment_id, delivered_type):
    sent, took = call("POST", f"/v3/chats/{chat_id}/voicememo", {"attachment_id": attachment_id})
    memo = sent["voice_memo"]["voice_memo"]
    assert memo["duration_ms"], memo
    assert memo["mime_type"] == delivered_type, memo
    wait_until_delivered(sent["voice_memo"]["id"])
    return took


def send_message(part):
    sent, took = call("POST", f"/v3/chats/{chat_id}/messages", {"message": {"parts": [part]}})
    wait_until_delivered(sent["message"]["id"])
    return took


def by_hand(path, codec):
    started = time.perf_counter()
    subprocess.run(
        ["ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", path],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    if codec != "-":
        subprocess.run(
            ["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", path, "-c:a", codec, "-movflags", "+faststart", output],
            check=True,
        )
    return (time.perf_counter() - started) * 1000


formats = [line.split() for line in sys.stdin]
text = {"parts": [{"type": "text", "value": "Listen"}]}
created, _ = call("POST", "/v3/chats", {"from": "+12025550160", "to": ["+12025550199"], "message": text})
chat_id = created["chat"]["id"]
wait_until_delivered(created["chat"]["message"]["id"])

times = {name: [] for name, *_ in formats}
# Round 0 is a warm-up.
for number in range(int(sends) + 1):
    for name, path, content_type, codec in formats:
        delivered_type = content_type if codec == "-" else "audio/mp4"
        # A new file each time, since only the first send of a file analyzes it.
        attachment_id = upload(path, content_type)
        took = (
            send_memo(attachment_id, delivered_type),
            send_memo(attachment_id, delivered_type),
            send_message({"type": "media", "attachment_id": attachment_id}),
            by_hand(path, codec),
        )
        if number:
            times[name].append(took)
    if number % 10 == 0:
        print(f"# voice memos, round {number} of {sends}", file=sys.stderr)

for name, rounds in times.items():
    print(name, *(f"{statistics.median(kind):.2f}" for kind in zip(*rounds)))
