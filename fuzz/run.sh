#!/usr/bin/env bash
# Fuzzes one target for some seconds: fuzz/run.sh TARGET [SECONDS]. Installs cargo-fuzz by itself.
# The seeds are kept in the tests: the sample files for `identify` and `measure`, the list of URLs for `fetch_url`. Those of
# connections (`fetch_http1`, `fetch_http2`, `request`) are in `seeds/`.
# What is found belongs into the tests of the module, as small as it can be made.
set -euo pipefail
cd "$(dirname "$0")"

target=${1:?which target: see fuzz_targets/}
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
    # A failed allocation or a panic of a decoder ends a child process and costs one file; errors of memory and endless
    # loops are what is looked for. They are told apart below.
    options=(-fork=1 -ignore_crashes=1 -ignore_ooms=1)
fi
# Sanitizers and coverage need flags that a stable compiler takes only so.
export RUSTC_BOOTSTRAP=1
"$tools/bin/cargo-fuzz" run -O "$target" "corpus/$target" "$seeds" -- \
    -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1024 -print_final_stats=1 "${options[@]}" 2>&1 | tee "corpus/$target.log"
if grep -E "AddressSanitizer: (heap|stack|global|use|double|attempting|SEGV)|libFuzzer: timeout" "corpus/$target.log"; then
    exit 1
fi
