"""Creates chats by a message each, and prints their ids."""

import json
import sys
import urllib.request

api, key, count, name, part = sys.argv[1:]
for number in range(int(count)):
    message = {"parts": [json.loads(part)]}
    body = {"from": "+12025550160", "to": [f"{name}{number}@example.org"], "message": message}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{api}/v3/chats", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as response:
        print(json.load(response)["chat"]["id"])
