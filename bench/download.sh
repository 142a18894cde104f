#!/usr/bin/env bash
# Downloads of 64 KiB and 1 MiB over 16 connections, compared with static files of nginx.
# shellcheck source=bench/common.sh
. "$(dirname "$0")/common.sh"
need curl curl
need nginx nginx
need wrk wrk

start_nginx "$WORK/nginx"
start_haversack "$WORK/haversack"

requests_per_second() {
    wrk_report -t2 -c16 -d"${DURATION}s" -s "$BENCH/report.lua" "$1"
}

for kib in 64 1024; do
    bytes=$((kib * 1024))
    file=$WORK/nginx/www/$kib.pdf
    random_file "$file" $bytes
    read -r _ upload_url ours_url < <(create_attachments 1 $bytes)
    nginx_url=$NGINX_URL/$kib.pdf
    put "$file" "$upload_url" >/dev/null
    for url in "$nginx_url" "$ours_url"; do
        curl -sSf "$url" | cmp - "$file"
    done

    ours=() nginx=()
    # Round 0 is a warm-up.
    for ((round = 0; round <= ROUNDS; round++)); do
        rival=$(requests_per_second "$nginx_url")
        own=$(requests_per_second "$ours_url")
        progress "download, $kib KiB, round $round: nginx $rival, haversack $own requests/s"
        [ $round = 0 ] || { nginx+=("$rival") ours+=("$own"); }
    done
    own=$(median "${ours[@]}") rival=$(median "${nginx[@]}")
    megabytes() { awk -v rate="$1" -v bytes=$bytes 'BEGIN { print rate * bytes / 1e6 }'; }
    result "download/$kib-KiB" requests/s "$own" nginx "$rival" higher
    result "download/$kib-KiB" MB/s "$(megabytes "$own")" nginx "$(megabytes "$rival")" higher
done
