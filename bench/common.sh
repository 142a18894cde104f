# Functions of the benchmark scripts, which source this file.
# shellcheck shell=bash disable=SC2034
set -euo pipefail
# Without inherit_errexit, a failure within $(...) would be ignored.
shopt -s inherit_errexit
export LC_ALL=C PATH=$PATH:/usr/sbin

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export BENCH=$REPO/bench
HAVERSACK=${BENCH_BINARY:-$REPO/target/dist/haversack}
ROUNDS=${BENCH_ROUNDS:-5}
DURATION=${BENCH_SECONDS:-5}
API_KEY=bench-key-0123456789abcdef
FILE_BYTES=$((100 * 1024 * 1024))
# A type that is recognized by its first bytes, so that random bytes may follow.
FILE_TYPE=application/pdf

# The caller's settings must not influence the results.
unset "${!HAVERSACK_@}"

if [ ! -x "$HAVERSACK" ]; then
    echo "$HAVERSACK is missing: run cargo build --profile dist first" >&2
    exit 1
fi

PIDS=()
mkdir -p "$REPO/target/bench"
WORK=$(mktemp -d "$REPO/target/bench/$(basename "$0" .sh).XXXXXX")
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
if [ "$(stat -f -c %T "$WORK")" = tmpfs ]; then
    echo "$WORK is on a tmpfs, where a sync costs nothing" >&2
    exit 1
fi

cleanup() {
    local status=$?
    [ ${#PIDS[@]} = 0 ] || stop "${PIDS[@]}"
    if [ $status != 0 ]; then
        tail -n 20 "$WORK"/*.log >&2 2>/dev/null || true
    fi
    rm -rf "$WORK"
}

# stop PID...
stop() {
    kill "$@" 2>/dev/null || true
    wait "$@" 2>/dev/null || true
}

# need COMMAND PACKAGE: installs the package if the command is missing.
need() {
    command -v "$1" >/dev/null && return
    local as_root=() policy=/usr/sbin/policy-rc.d made=
    [ "$EUID" = 0 ] || as_root=(sudo)
    # Prevents the package from starting its server; the scripts start it with their own
    # configuration.
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" install -m 755 /dev/stdin $policy
        made=yes
    fi
    "${as_root[@]}" apt-get update -qq >&2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$2" >&2
    [ -z "$made" ] || "${as_root[@]}" rm $policy
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# wait_ready URL
wait_ready() {
    local try
    for try in {1..500}; do
        curl -sf -o /dev/null "$1" && return
        sleep 0.01
    done
    echo "$1 does not respond" >&2
    return 1
}

# start_haversack FOLDER [NAME=VALUE...]: sets HAVERSACK_PID and API.
start_haversack() {
    local folder=$1 port
    shift
    port=$(free_port)
    API=http://127.0.0.1:$port
    local with=(env "HAVERSACK_DATA_DIR=$folder" "HAVERSACK_LISTEN=127.0.0.1:$port" HAVERSACK_LOG=warn "$@" "$HAVERSACK")
    "${with[@]}" partner add bench --api-key "$API_KEY" --phone-number +12025550160 >/dev/null
    "${with[@]}" serve >/dev/null 2>"$WORK/haversack.log" &
    HAVERSACK_PID=$!
    PIDS+=("$HAVERSACK_PID")
    wait_ready "$API/healthz"
}

# nginx_config FOLDER PORT: writes FOLDER/nginx.conf; files are in FOLDER/www, uploads in
# FOLDER/www/put. Includes further servers from FOLDER/*.server.
nginx_config() {
    local folder=$1 port=$2
    if ! nginx -V 2>&1 | grep -q http_dav_module; then
        echo "this nginx has no http_dav_module" >&2
        return 1
    fi
    mkdir -p "$folder/www/put"
    cat >"$folder/nginx.conf" <<END
user $(id -un) $(id -gn);
worker_processes auto;
pid $folder/nginx.pid;
error_log $WORK/nginx.log warn;
events { worker_connections 1024; }
http {
    access_log off;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    keepalive_requests 100000000;
    client_max_body_size 200m;
    client_body_buffer_size 128k;
    # On the file system of the uploads, so that a PUT ends with a rename.
    client_body_temp_path $folder/body;
    proxy_temp_path $folder/proxy;
    fastcgi_temp_path $folder/fastcgi;
    uwsgi_temp_path $folder/uwsgi;
    scgi_temp_path $folder/scgi;
    server {
        listen 127.0.0.1:$port;
        root $folder/www;
        location / {
            open_file_cache max=1000 inactive=10m;
            open_file_cache_valid 10m;
        }
        location /put/ { dav_methods PUT; }
        location = /healthz { return 200; }
    }
    include $folder/*.server;
}
END
}

# start_nginx FOLDER: sets NGINX_URL.
start_nginx() {
    local folder=$1 port
    port=$(free_port)
    NGINX_URL=http://127.0.0.1:$port
    nginx_config "$folder" "$port"
    nginx -e "$WORK/nginx.log" -p "$folder" -c "$folder/nginx.conf" -g 'daemon off;' &
    PIDS+=($!)
    wait_ready "$NGINX_URL/healthz"
}

# random_file PATH BYTES
random_file() {
    { printf '%%PDF-1.7\n1 0 obj\n'; cat /dev/urandom || true; } 2>/dev/null | head -c "$2" >"$1" || true
    [ "$(stat -c %s "$1")" = "$2" ]
}

# create_attachments COUNT BYTES: prints id, upload URL and download URL of each.
create_attachments() {
    python3 "$BENCH/create_attachments.py" "$API" "$API_KEY" "$FILE_TYPE" "$1" "$2"
}

# put FILE URL: prints the status and the duration in seconds.
put() {
    curl -sS -o /dev/null -w '%{http_code} %{time_total}\n' -H 'Expect:' -H "Content-Type: $FILE_TYPE" -T "$1" "$2"
}

# delete_attachment ID
delete_attachment() {
    curl -sSf -o /dev/null -X DELETE -H "Authorization: Bearer $API_KEY" "$API/v3/attachments/$1"
}

# wrk_report WRK_ARGUMENTS...: prints requests per second; fails if any request failed.
wrk_report() {
    local report
    report=$(wrk "$@" | awk '$1 == "report" { print $2, $3 }')
    if [ "${report#* }" != 0 ]; then
        echo "requests failed: ${report#* }" >&2
        return 1
    fi
    echo "${report% *}"
}

# median NUMBER...
median() {
    printf '%s\n' "$@" | sort -g | awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'
}

# result CASE UNIT OURS RIVAL VALUE higher|lower: prints a result line; the ratio is above 1 if
# haversack is better.
result() {
    awk -v name="$1" -v unit="$2" -v ours="$3" -v rival="$4" -v value="$5" -v better="$6" 'BEGIN {
        ratio = better == "higher" ? ours / value : value / ours
        printf "%-23s haversack=%-8.1f %-20s unit=%-11s ratio=%.2f\n",
            name, ours, sprintf("%s=%.1f", rival, value), unit, ratio
    }'
}

# progress WORDS...: prints progress to standard error.
progress() {
    echo "# $*" >&2
}
