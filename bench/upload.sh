#!/usr/bin/env bash
# Uploads of 100 MiB by 1 and by 8 concurrent clients, compared with PUT of nginx (WebDAV).
# shellcheck source=bench/common.sh
. "$(dirname "$0")/common.sh"
need curl curl
need nginx nginx

FILE=$WORK/file
random_file "$FILE" "$FILE_BYTES"
start_nginx "$WORK/nginx"
start_haversack "$WORK/haversack"
PUT_FOLDER=$WORK/nginx/www/put

# client EXPECTED_STATUS URL [COMMAND...]: uploads, then runs the command; prints the times of start
# and end.
client() {
    local expected=$1 url=$2 status seconds end
    shift 2
    read -r status seconds < <(put "$FILE" "$url")
    end=$EPOCHREALTIME
    if [ "$status" != "$expected" ]; then
        echo "PUT $url: status $status" >&2
        return 1
    fi
    "$@"
    # Measured by curl, to exclude the start of its process.
    awk -v end="$end" -v took="$seconds" -v done="$EPOCHREALTIME" 'BEGIN { printf "%.6f %s\n", end - took, done }'
}

# gather PID...: waits for the clients; prints MB/s from the first start to the last end.
gather() {
    local pid
    for pid; do wait "$pid"; done
    cat "$WORK"/times.* | awk -v bytes="$FILE_BYTES" '
        NR == 1 || $1 < first { first = $1 } $2 > last { last = $2 }
        END { print NR * bytes / 1e6 / (last - first) }'
    rm "$WORK"/times.*
}

# Flushes the writes of one server, which would slow down the next.
settle() {
    sync -f "$WORK"
}

nginx_round() {
    local clients=$1 fsync=$2 n after pids=()
    settle
    for ((n = 0; n < clients; n++)); do
        after=(true)
        [ "$fsync" = no ] || after=(sync "$PUT_FOLDER/$n" "$PUT_FOLDER")
        client 201 "$NGINX_URL/put/$n" "${after[@]}" >"$WORK/times.$n" &
        pids+=($!)
    done
    gather "${pids[@]}"
    rm "$PUT_FOLDER"/*
}

haversack_round() {
    local clients=$1 n=0 id url pids=()
    create_attachments "$clients" "$FILE_BYTES" >"$WORK/created"
    settle
    while read -r id url _; do
        client 200 "$url" true >"$WORK/times.$n" &
        pids+=($!)
        n=$((n + 1))
    done <"$WORK/created"
    gather "${pids[@]}"
    while read -r id _; do delete_attachment "$id"; done <"$WORK/created"
}

for clients in 1 8; do
    ours=() nginx=() nginx_fsync=()
    # Round 0 is a warm-up.
    for ((round = 0; round <= ROUNDS; round++)); do
        plain=$(nginx_round $clients no)
        own=$(haversack_round $clients)
        synced=$(nginx_round $clients yes)
        progress "upload, $clients client(s), round $round: nginx $plain, haversack $own, nginx+fsync $synced MB/s"
        [ $round = 0 ] || { nginx+=("$plain") ours+=("$own") nginx_fsync+=("$synced"); }
    done
    own=$(median "${ours[@]}")
    result "upload/$clients-client" MB/s "$own" nginx "$(median "${nginx[@]}")" higher
    # haversack responds once the file is on disk; here the clients of nginx sync the file as well.
    result "upload/$clients-client/synced" MB/s "$own" nginx+fsync "$(median "${nginx_fsync[@]}")" higher
done
