#!/usr/bin/env bash
# Cost of decoding in child processes: milliseconds of the first send of a voice memo and of a TIFF,
# and of an upload with metadata removal, compared with BENCH_BASELINE, an older binary.
# shellcheck source=bench/common.sh
. "$(dirname "$0")/common.sh"
need ffmpeg ffmpeg
baseline=${BENCH_BASELINE:?an older binary to compare with}

settings=(HAVERSACK_RATE_LIMIT_WINDOW_SECONDS=0 HAVERSACK_STRIP_PRIVATE_METADATA=true)
start_haversack "$WORK/now" "${settings[@]}"
now=$API
HAVERSACK=$baseline start_haversack "$WORK/before" "${settings[@]}"
python3 "$BENCH/decoders.py" "$now" "$API" "$API_KEY" "$REPO/tests/corpus" "${BENCH_SENDS:-50}" >"$WORK/medians"
while read -r name ours theirs; do
    result "decode/$name" ms "$ours" baseline "$theirs" lower
done <"$WORK/medians"
