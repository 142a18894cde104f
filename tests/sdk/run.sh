#!/usr/bin/env bash
# Runs the SDK stories against a real server: tests/sdk/run.sh HAVERSACK_BINARY STORY_FFMPEG is the
# server's HAVERSACK_FFMPEG; with none, CAF is delivered unconverted. STORY_DATABASE_URL and
# STORY_BLOBS_URL are its HAVERSACK_DATABASE_URL and HAVERSACK_BLOBS_URL; by default SQLite and a
# folder.
set -euo pipefail

if [[ $# -ne 1 || ! -x $1 ]]; then
  echo "usage: $0 HAVERSACK_BINARY" >&2
  exit 2
fi
bin=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
# All downloads and build output go here, so that the source tree stays clean.
cache=$(cd "$here/../.." && pwd)/target/sdk

# The caller's settings and proxies must not affect the clients.
unset "${!HAVERSACK_@}" "${!LINQ_@}"
export NO_PROXY=127.0.0.1${NO_PROXY:+,$NO_PROXY}
export no_proxy=$NO_PROXY

work=$(mktemp -d)
server=
origin=
finish() {
  status=$?
  for process in $server $origin; do
    kill -KILL "$process" 2>/dev/null || true
    wait "$process" 2>/dev/null || true
  done
  for log in server origin; do
    if [[ $status -ne 0 && -s $work/$log.log ]]; then
      echo "--- $log log ---" >&2
      cat "$work/$log.log" >&2
    fi
  done
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

echo "preparing the clients in $cache"
mkdir -p "$cache/typescript"
[[ -x $cache/venv/bin/python ]] || python3 -m venv "$cache/venv"
"$cache/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/python/requirements.txt"
cp "$here"/typescript/{package.json,package-lock.json,.npmrc,tsconfig.json,story.ts} "$cache/typescript/"
(cd "$cache/typescript" && npm ci --loglevel=error --no-audit --no-fund >/dev/null && npm run --silent build)

# The origin of files fetched by URL. It prints its ports when it is ready.
exec {ports}< <(exec "$cache/venv/bin/python" "$here/origin.py" "$work/origin-ca.pem" 2>"$work/origin.log")
origin=$!
if ! read -r origin_port control_port <&"$ports"; then
  echo "the origin did not become ready" >&2
  exit 1
fi

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port
export HAVERSACK_DATA_DIR=$work/data
mkdir "$HAVERSACK_DATA_DIR"
# In the work folder, which has no configuration file.
cd "$work"
[[ -z ${STORY_DATABASE_URL:-} ]] || export HAVERSACK_DATABASE_URL=$STORY_DATABASE_URL
[[ -z ${STORY_BLOBS_URL:-} ]] || export HAVERSACK_BLOBS_URL=$STORY_BLOBS_URL
HAVERSACK_LISTEN=127.0.0.1:$port HAVERSACK_FETCH_CA_FILE=$work/origin-ca.pem \
  HAVERSACK_FETCH_ALLOW_NETS=127.0.0.1/32 HAVERSACK_FETCH_ALLOW_PORTS=$origin_port \
  HAVERSACK_FFMPEG=${STORY_FFMPEG:-ffmpeg} \
  "$bin" serve >"$work/server.log" 2>&1 &
server=$!

ready() {
  python3 -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=1)' "$url/readyz" 2>/dev/null
}
for ((tries = 0; ; tries++)); do
  ready && break
  if ((tries == 50)) || ! kill -0 "$server" 2>/dev/null; then
    echo "the server did not become ready" >&2
    exit 1
  fi
  sleep 0.2
done

# Adding a partner needs no restart of the server.
"$bin" partner add story --api-key story-key-0123456789abcdef \
  --phone-number +12025550100 --phone-number +12025550101 >/dev/null
"$bin" partner add other --api-key other-key-0123456789abcdef --phone-number +12025550150 >/dev/null

export LINQ_API_V3_BASE_URL=$url/api/partner
export LINQ_API_V3_API_KEY=story-key-0123456789abcdef
export STORY_OTHER_API_KEY=other-key-0123456789abcdef
export STORY_LINE=+12025550100
export STORY_SECOND_LINE=+12025550101
export STORY_PHOTO=$here/photo.jpg
export STORY_CORPUS=$here/../corpus
export STORY_ORIGIN=https://127.0.0.1:$origin_port
export STORY_ORIGIN_CONTROL=http://127.0.0.1:$control_port

# Runs both stories even if the first fails, to show where they differ.
failed=0
"$cache/venv/bin/python" "$here/python/story.py" || failed=1
node --enable-source-maps "$cache/typescript/dist/story.js" || failed=1

kill -TERM "$server"
for ((tries = 0; tries < 200; tries++)); do
  kill -0 "$server" 2>/dev/null || break
  sleep 0.2
done
if kill -0 "$server" 2>/dev/null; then
  echo "the server ignored SIGTERM for 40 s" >&2
  exit 1
fi
stopped=0
wait "$server" || stopped=$?
server=
if ((stopped != 0)); then
  echo "the server ended with status $stopped after SIGTERM" >&2
  exit 1
fi
exit "$failed"
