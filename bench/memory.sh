#!/usr/bin/env bash
# Peak resident memory with 100 uploads and 100 downloads of 100 MB at the same time.
# shellcheck source=bench/common.sh
. "$(dirname "$0")/common.sh"
need curl curl

AIM=128
TRANSFERS=${BENCH_TRANSFERS:-100}
random_file "$WORK/file" "$FILE_BYTES"
start_haversack "$WORK/haversack"

peak_mib() {
    awk '$1 == "VmHWM:" { print $2 / 1024 }' "/proc/$HAVERSACK_PID/status"
}

# Creates one attachment for the downloads, and the others for the uploads.
create_attachments $((TRANSFERS + 1)) "$FILE_BYTES" >"$WORK/created"
progress "peak before: $(peak_mib) MiB"
python3 "$BENCH/memory.py" "$API" "$FILE_TYPE" "$WORK/file" <"$WORK/created"
peak=$(peak_mib)
result "memory/$TRANSFERS+$TRANSFERS" MiB "$peak" aim $AIM lower
