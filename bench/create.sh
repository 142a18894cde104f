#!/usr/bin/env bash
# Creates per second: POST /v3/attachments over 16 connections, each committed to disk before the
# response.
# shellcheck source=bench/common.sh
. "$(dirname "$0")/common.sh"
need curl curl
need wrk wrk

AIM=2000
DURATION=${BENCH_SECONDS:-10}
start_haversack "$WORK/haversack" HAVERSACK_MAX_PENDING_ATTACHMENTS=10000000

ours=()
# Round 0 is a warm-up.
for ((round = 0; round <= ROUNDS; round++)); do
    # Fails on any response other than 2xx.
    own=$(wrk_report -t2 -c16 -d"${DURATION}s" -s "$BENCH/create.lua" "$API/v3/attachments" -- "$API_KEY")
    progress "create, round $round: $own creates/s, non-2xx 0"
    [ $round = 0 ] || ours+=("$own")
done
result create/16-connections creates/s "$(median "${ours[@]}")" aim $AIM higher
