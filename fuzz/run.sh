#!/usr/bin/env bash
# Fuzzes one target for some seconds: fuzz/run.sh TARGET [SECONDS]. Installs cargo-fuzz by itself.
# Seeds: the sample files of the tests, the list of URLs for `fetch_url`, and `seeds/` for connections (`fetch_http1`,
# `fetch_http2`, `request`).
# Reduce each finding and add it to the tests of the module.
set -euo pipefail
cd "$(dirname "$0")"

target=${1:?target missing; see fuzz_targets/}
seconds=${2:-300}
tools=$PWD/../target/tools
[ -x "$tools/bin/cargo-fuzz" ] || cargo install --locked --quiet --root "$tools" cargo-fuzz@0.13.2

mkdir -p "corpus/$target"
seeds=../tests/corpus
[ ! -d "seeds/$target" ] || seeds=seeds/$target
if [ "$target" = fetch_url ]; then
    seeds=$(mktemp -d)
    trap 'rm -rf "$seeds"' EXIT
    grep -v '^#' ../tests/it/data/fetch_urls.tsv | cut -f2 | split -l 1 - "$seeds/"
fi
options=()
if [ "$target" = decoder ]; then
    # A failed allocation or a panic ends a decoder process and affects one file. Memory errors and endless loops are
    # findings; the log is searched for them below.
    options=(-fork=1 -ignore_crashes=1 -ignore_ooms=1)
fi
# Sanitizers and coverage need unstable compiler flags.
export RUSTC_BOOTSTRAP=1
"$tools/bin/cargo-fuzz" run -O "$target" "corpus/$target" "$seeds" -- \
    -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1024 -print_final_stats=1 "${options[@]}" 2>&1 | tee "corpus/$target.log"
if grep -E "AddressSanitizer: (heap|stack|global|use|double|attempting|SEGV)|libFuzzer: timeout" "corpus/$target.log"; then
    exit 1
fi
