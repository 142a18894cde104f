#!/usr/bin/env bash
# Time from exec to the first 200 of /healthz: with a new data folder, with an existing one, and of
# nginx.
# shellcheck source=bench/common.sh
. "$(dirname "$0")/common.sh"
need nginx nginx

AIM=50
STARTS=${BENCH_STARTS:-10}
PORT=$(free_port)
nginx_config "$WORK/nginx" "$PORT"

export HAVERSACK_LISTEN=127.0.0.1:$PORT HAVERSACK_LOG=warn
haversack_start() {
    HAVERSACK_DATA_DIR=$1 python3 "$BENCH/startup.py" "$PORT" "$HAVERSACK" serve
}

first=() later=() nginx=()
for ((n = 1; n <= STARTS; n++)); do
    nginx+=("$(python3 "$BENCH/startup.py" "$PORT" nginx -e "$WORK/nginx.log" -c "$WORK/nginx/nginx.conf" -g 'daemon off;')")
    first+=("$(haversack_start "$WORK/haversack.$n")")
    later+=("$(haversack_start "$WORK/haversack.$n")")
    progress "start $n: nginx ${nginx[-1]}, haversack first ${first[-1]}, later ${later[-1]} ms"
done
first_ms=$(median "${first[@]}") later_ms=$(median "${later[@]}") nginx_ms=$(median "${nginx[@]}")
result startup/first ms "$first_ms" aim $AIM lower
result startup/later ms "$later_ms" aim $AIM lower
result startup/first ms "$first_ms" nginx "$nginx_ms" lower
result startup/later ms "$later_ms" nginx "$nginx_ms" lower
