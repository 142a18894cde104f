#!/usr/bin/env bash
# Attacks a server as a partner with a key or as a client without one. Prints for each attack the
# peak memory of the server and its children, temporary files, CPU time, and the effect on another
# partner: median and slowest create, and failures. BENCH_ATTACKS selects the attacks; BENCH_BINARY
# is the server.
# shellcheck source=bench/common.sh
. "$(dirname "$0")/common.sh"
need ffmpeg ffmpeg

python3 "$BENCH/attack_files.py" "$WORK"
"$HAVERSACK" --version >&2
printf '%-20s %8s %8s %9s %7s %12s %12s %9s\n' attack requests peak_MiB temp_MiB cpu_s quiet_ms busy_ms failures
for attack in ${BENCH_ATTACKS:-$(python3 "$BENCH/attack.py" list)}; do
    folder=$WORK/$attack
    settings=(HAVERSACK_MAX_PENDING_ATTACHMENTS=1000000 HAVERSACK_RATE_LIMIT_WINDOW_SECONDS=0)
    [[ $attack != metadata-* ]] || settings+=(HAVERSACK_STRIP_PRIVATE_METADATA=true)
    start_haversack "$folder" "${settings[@]}"
    HAVERSACK_DATA_DIR=$folder "$HAVERSACK" partner add neighbour --api-key neighbour-key-0123456789 \
        --phone-number +12025550161 >/dev/null
    python3 "$BENCH/attack.py" run "$attack" "$API" "$API_KEY" neighbour-key-0123456789 "$HAVERSACK_PID" "$WORK" \
        "$folder" "$DURATION"
    stop "$HAVERSACK_PID" 2>/dev/null
    rm -rf "$folder"
done
