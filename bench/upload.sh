#!/usr/bin/env bash
# PUT of a 100 MB file, with 1 and with 8 clients at once, against nginx's DAV PUT.
# shellcheck source=bench/common.sh
. "$(dirname "$0")/common.sh"
need curl curl
need nginx nginx

FILE=$WORK/file
random_file "$FILE" "$FILE_BYTES"
start_nginx "$WORK/nginx"
start_haversack "$WORK/haversack"
PUT_FOLDER=$WORK/nginx/www/put

# client EXPECTED_STATUS URL [COMMAND...]: PUTs, then runs the command; prints when the PUT began and when all ended.
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
    # curl's own clock, so that its start as a process does not count.
    awk -v end="$end" -v took="$seconds" -v done="$EPOCHREALTIME" 'BEGIN { printf "%.6f %s\n", end - took, done }'
}

# gather PID...: waits for the clients; prints MB/s from the first beginning to the last end.
gather() {
    local pid
    for pid; do wait "$pid"; done
    cat "$WORK"/times.* | awk -v bytes="$FILE_BYTES" '
        NR == 1 || $1 < first { first = $1 } $2 > last { last = $2 }
        END { print NR * bytes / 1e6 / (last - first) }'
    rm "$WORK"/times.*
}

# What one server left to write must not slow down the next.
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
    # Round 0 warms up and does not count.
    for ((round = 0; round <= ROUNDS; round++)); do
        plain=$(nginx_round $clients no)
        own=$(haversack_round $clients)
        synced=$(nginx_round $clients yes)
        progress "upload, $clients client(s), round $round: nginx $plain, haversack $own, nginx+fsync $synced MB/s"
        [ $round = 0 ] || { nginx+=("$plain") ours+=("$own") nginx_fsync+=("$synced"); }
    done
    own=$(median "${ours[@]}")
    result "upload/$clients-client" MB/s "$own" nginx "$(median "${nginx[@]}")" higher
    # haversack answers only when the file is on the disk; this is nginx when its client asks for the same.
    result "upload/$clients-client/synced" MB/s "$own" nginx+fsync "$(median "${nginx_fsync[@]}")" higher
done
