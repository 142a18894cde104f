#!/usr/bin/env bash
# POST /v3/attachments over 16 connections: how many a second, each committed to the disk before it is answered.
# shellcheck source=bench/common.sh
. "$(dirname "$0")/common.sh"
need curl curl
need wrk wrk

AIM=2000
DURATION=${BENCH_SECONDS:-10}
start_haversack "$WORK/haversack" HAVERSACK_MAX_PENDING_ATTACHMENTS=10000000

ours=()
# Round 0 warms up and does not count.
for ((round = 0; round <= ROUNDS; round++)); do
    # Fails if an answer is not 2xx.
    own=$(wrk_report -t2 -c16 -d"${DURATION}s" -s "$BENCH/create.lua" "$API/v3/attachments" -- "$API_KEY")
    progress "create, round $round: $own creates/s, non-2xx 0"
    [ $round = 0 ] || ours+=("$own")
done
result create/16-connections creates/s "$(median "${ours[@]}")" aim $AIM higher
