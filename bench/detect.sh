#!/usr/bin/env bash
# Type detection of the samples in tests/corpus, for every accepted type, compared with the file
# command.
# shellcheck source=bench/common.sh
. "$(dirname "$0")/common.sh"
need file file

# detect: the benchmark in benches/detect.rs, or the program in BENCH_DETECT.
detect() {
    if [ -n "${BENCH_DETECT:-}" ]; then
        "$BENCH_DETECT"
    else
        cargo bench --profile dist --quiet --locked --manifest-path "$REPO/Cargo.toml" --bench detect
    fi
}
cd "$REPO/tests/corpus"

# Different names of one type.
SPELLINGS='s#^application/gzip$#application/x-gzip#
    s#^audio/mid$#audio/midi#
    s#^audio/x-hx-aac-adts$#audio/aac#
    s#^image/vnd.microsoft.icon$#image/x-icon#'

file_command() {
    file --brief --mime-type --files-from "$1"
}

# right: counts the lines with the second column among the types of the first.
right() {
    awk -F'\t' '
        { n = split($1, types, ","); for (i = 1; i <= n; i++) if (types[i] == $2) { right++; break } }
        END { print right + 0 }'
}

detect >"$WORK/samples"
cut -f 1 "$WORK/samples" >"$WORK/all.list"
file_command "$WORK/all.list" | sed "$SPELLINGS" >"$WORK/answers"
own_right=$(cut -f 2,3 "$WORK/samples" | right)
file_right=$(cut -f 2 "$WORK/samples" | paste - "$WORK/answers" | right)

# For each type, a list that repeats its files, so that the start of the process is negligible.
LISTED=500
mapfile -t types < <(cut -f 2 "$WORK/samples" | cut -d , -f 1 | sort -u)
for type in all "${types[@]}"; do
    list=$WORK/${type//\//.}.list
    [ "$type" = all ] || awk -F'[\t,]' -v type="$type" '$2 == type { print $1 }' "$WORK/samples" >"$list"
    files=$(wc -l <"$list")
    for ((n = 0; n < LISTED; n += files)); do cat "$list"; done >"$WORK/repeated"
    mv "$WORK/repeated" "$list"
done

# file_microseconds TYPE: prints the time per file of the file command.
file_microseconds() {
    local list=$WORK/${1//\//.}.list begin end
    begin=$EPOCHREALTIME
    file_command "$list" >/dev/null
    end=$EPOCHREALTIME
    awk -v begin="$begin" -v end="$end" -v files="$(wc -l <"$list")" 'BEGIN { print (end - begin) * 1e6 / files }'
}

# own_microseconds TYPE COLUMN: prints the average time per file of haversack.
own_microseconds() {
    awk -F'\t' -v type="$1" -v column="$2" '
        { split($2, types, ",") } type == "all" || types[1] == type { sum += $column; files++ }
        END { print sum / files }' "$WORK/samples"
}

# Round 0 is a warm-up.
for ((round = 0; round <= ROUNDS; round++)); do
    detect >"$WORK/samples"
    for type in all "${types[@]}"; do
        echo "$type $(own_microseconds "$type" 4) $(own_microseconds "$type" 5) $(file_microseconds "$type")"
    done >"$WORK/round"
    progress "detect, round $round: haversack, opened, file: $(head -n 1 "$WORK/round") us"
    [ $round = 0 ] || cat "$WORK/round" >>"$WORK/rounds"
done

# of TYPE COLUMN: prints the median of all rounds.
of() {
    local numbers
    mapfile -t numbers < <(awk -v type="$1" -v column="$2" '$1 == type { print $column }' "$WORK/rounds")
    median "${numbers[@]}"
}

for type in "${types[@]}"; do
    result "detect/$type" us/file "$(of "$type" 2)" file "$(of "$type" 4)" lower
done
result detect/all us/file "$(of all 2)" file "$(of all 4)" lower
# The file command opens and reads each file; in these lines haversack does as well.
result detect/all/opened us/file "$(of all 3)" file "$(of all 4)" lower
result "detect/right-of-$(wc -l <"$WORK/samples")" files "$own_right" file "$file_right" higher
