"""Creates attachments, and prints id, upload URL and download URL of each."""

import json
import sys
import urllib.request

api, key, content_type, count, size = sys.argv[1:]
for number in range(int(count)):
    body = {"filename": f"bench-{number}", "content_type": content_type, "size_bytes": int(size)}
    request = urllib.request.Request(
        f"{api}/v3/attachments",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        created = json.load(response)
    print(created["attachment_id"], created["upload_url"], created["download_url"])
