#!/usr/bin/env bash
# Messages per second with one photo of 64 KiB, over 16 connections: by attachment_id, by url
# fetched from an HTTPS origin, and by url revalidated with 304.
# shellcheck source=bench/common.sh
. "$(dirname "$0")/common.sh"
need curl curl
need nginx nginx
need openssl openssl
need wrk wrk

FILE_TYPE=image/jpeg
PHOTO=$WORK/photo.jpg
PHOTO_BYTES=$((64 * 1024))

# A small photo with additional image data; a byte of 255 would be a marker.
small=$REPO/tests/sdk/photo.jpg
{
    head -c -2 "$small"
    { tr -d '\377' </dev/urandom || true; } 2>/dev/null | head -c $((PHOTO_BYTES - $(stat -c %s "$small")))
    printf '\377\331'
} >"$PHOTO"
[ "$(stat -c %s "$PHOTO")" = $PHOTO_BYTES ]

# The origin: nginx over TLS, which serves the file once without and once with an entity tag.
mkdir -p "$WORK/nginx/www/bare" "$WORK/nginx/www/tagged"
ln "$PHOTO" "$WORK/nginx/www/bare/photo.jpg"
ln "$PHOTO" "$WORK/nginx/www/tagged/photo.jpg"
printf '[req]\ndistinguished_name = name\n[name]\n' >"$WORK/openssl.cnf"
openssl req -config "$WORK/openssl.cnf" -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
    -subj "/CN=bench origin" -addext "subjectAltName = IP:127.0.0.1" -addext "basicConstraints = critical, CA:FALSE" \
    -keyout "$WORK/origin.key" -out "$WORK/origin.pem" 2>"$WORK/openssl.log"
origin_port=$(free_port)
ORIGIN=https://127.0.0.1:$origin_port
cat >"$WORK/nginx/origin.server" <<END
server {
    listen 127.0.0.1:$origin_port ssl http2;
    ssl_certificate $WORK/origin.pem;
    ssl_certificate_key $WORK/origin.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:origin:1m;
    root $WORK/nginx/www;
    open_file_cache max=1000 inactive=10m;
    open_file_cache_valid 10m;
    location /bare/ { etag off; add_header Last-Modified ""; }
    location /tagged/ { etag on; }
}
END
start_nginx "$WORK/nginx"
start_haversack "$WORK/haversack" HAVERSACK_RATE_LIMIT_WINDOW_SECONDS=0 HAVERSACK_FETCH_CA_FILE="$WORK/origin.pem" \
    HAVERSACK_FETCH_ALLOW_NETS=127.0.0.1/32 HAVERSACK_FETCH_ALLOW_PORTS="$origin_port"

# post PATH BODY: prints the response.
post() {
    curl -sSf -H "Authorization: Bearer $API_KEY" -H 'Content-Type: application/json' -d "$2" "$API$1"
}

# metric NAME: prints the value of a counter, 0 if it does not exist yet.
metric() {
    curl -sSf "$API/metrics" | awk -v name="$1" '$1 == name { value = $2 } END { print value + 0 }'
}

# newest_is_delivered: succeeds if the last message of the chat is delivered.
newest_is_delivered() {
    local newest
    newest=$(curl -sSf -H "Authorization: Bearer $API_KEY" "$API/v3/chats/$chat/messages?limit=1")
    [[ $newest == *'"delivery_status":"delivered"'* ]]
}

# Waits for work left by a round, which would slow down the next: aborted sends, deliveries, dirty
# pages.
settle() {
    for _ in {1..600}; do
        # The one connection is that of this request.
        if [ "$(metric haversack_connections)" = 1 ] && newest_is_delivered; then
            sync -f "$WORK"
            return
        fi
        sleep 0.1
    done
    echo "messages are still undelivered after a minute" >&2
    return 1
}

# messages_per_second PART
messages_per_second() {
    wrk_report -t2 -c16 -d"${DURATION}s" -s "$BENCH/send.lua" "$API/v3/chats/$chat/messages" -- "$API_KEY" "$1"
    settle
}

# expect_no_more OUTCOME COUNT: fails if more fetches had this outcome.
expect_no_more() {
    if [ "$(metric "haversack_fetches_total{outcome=\"$1\"}")" != "$2" ]; then
        echo "some fetches came out as $1" >&2
        return 1
    fi
}

read -r attachment upload_url _ < <(create_attachments 1 $PHOTO_BYTES)
put "$PHOTO" "$upload_url" >/dev/null
by_id="{\"type\":\"media\",\"attachment_id\":\"$attachment\"}"
by_url="{\"type\":\"media\",\"url\":\"$ORIGIN/bare/photo.jpg\"}"
by_tagged_url="{\"type\":\"media\",\"url\":\"$ORIGIN/tagged/photo.jpg\"}"

# The chat of all messages. Its first message fetches the last part, so that later sends revalidate
# it.
created=$(post /v3/chats "{\"from\":\"+12025550160\",\"to\":[\"+12025550199\"],\"message\":{\"parts\":[$by_tagged_url]}}")
chat=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["chat"]["id"])' <<<"$created")

ids=() urls=() unchanged=()
# Round 0 is a warm-up.
for ((round = 0; round <= ROUNDS; round++)); do
    fetched=$(metric 'haversack_fetches_total{outcome="fetched"}')
    id=$(messages_per_second "$by_id")
    not_modified=$(messages_per_second "$by_tagged_url")
    expect_no_more fetched "$fetched"
    before=$(metric 'haversack_fetches_total{outcome="not_modified"}')
    url=$(messages_per_second "$by_url")
    expect_no_more not_modified "$before"
    progress "send, round $round: by id $id, by url $url, by url with 304 $not_modified messages/s"
    [ $round = 0 ] || { ids+=("$id") urls+=("$url") unchanged+=("$not_modified"); }
done
id=$(median "${ids[@]}")
result send/url messages/s "$(median "${urls[@]}")" attachment_id "$id" higher
result send/url/304 messages/s "$(median "${unchanged[@]}")" attachment_id "$id" higher
