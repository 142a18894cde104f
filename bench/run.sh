#!/usr/bin/env bash
# Runs every benchmark, and writes the results to standard output and to target/bench/results.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
results=target/bench/results.txt
mkdir -p target/bench

machine() {
    echo "# $(date -u +%Y-%m-%dT%H:%MZ) commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
    echo "# $(nproc) cores of $(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)," \
        "$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)," \
        "Linux $(uname -r), $(stat -f -c %T target)"
}

{
    machine
    for benchmark in startup detect create send voice_memo download upload memory scale nodes; do
        "bench/$benchmark.sh"
    done
    echo "# $(PATH=$PATH:/usr/sbin nginx -v 2>&1), $(wrk -v 2>&1 | awk 'NR == 1 { print $1, $2 }')," \
        "$(curl --version | awk 'NR == 1 { print $1, $2 }'), $(file --version | head -n 1)," \
        "$(openssl version | awk '{ print $1, $2 }'), $(ffmpeg -version | awk 'NR == 1 { print $1, $3 }')"
} | tee "$results"

echo
echo "| Case | Unit | haversack | compared with | ratio |"
echo "|---|---|---:|---:|---:|"
awk '/ratio=/ {
    for (n = 2; n <= NF; n++) { split($n, pair, "="); key[n] = pair[1]; value[n] = pair[2] }
    printf "| `%s` | %s | %s | %s %s | %s |\n", $1, value[4], value[2], key[3], value[3], value[5]
}' "$results"
