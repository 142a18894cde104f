#!/usr/bin/env bash
# Creates and sends per second with one server and with two servers on one PostgreSQL, over 16
# connections in total. All processes share the cores of one machine, so this shows the overhead of
# a second server and not its gain.
[ -n "${HAVERSACK_TEST_DATABASE_URL:-}" ] || exec "$(dirname "$0")/../tests/cluster/with-postgres.sh" "$0" "$@"
postgres=$HAVERSACK_TEST_DATABASE_URL
# shellcheck source=bench/common.sh
. "$(dirname "$0")/common.sh"
need curl curl
need wrk wrk

settings=(HAVERSACK_DATABASE_URL="$postgres" HAVERSACK_MAX_PENDING_ATTACHMENTS=10000000
    HAVERSACK_RATE_LIMIT_WINDOW_SECONDS=0 HAVERSACK_LOG=warn)
nodes=()
for node in one two; do
    with=(env "${settings[@]}" HAVERSACK_DATA_DIR="$WORK/$node")
    [ $node = two ] ||
        "${with[@]}" "$HAVERSACK" partner add bench --api-key "$API_KEY" --phone-number +12025550160 >/dev/null
    port=$(free_port)
    "${with[@]}" HAVERSACK_LISTEN="127.0.0.1:$port" "$HAVERSACK" serve >/dev/null 2>"$WORK/$node.log" &
    PIDS+=($!)
    nodes+=("http://127.0.0.1:$port")
    wait_ready "${nodes[-1]}/healthz"
done

# Sends into one chat are serialized, so there are many chats.
TEXT='{"type":"text","value":"Hello"}'
CHATS=$(python3 "$BENCH/open_chats.py" "${nodes[0]}" "$API_KEY" 64 person "$TEXT" | xargs)

# run WHAT NODE: runs one client with 8 connections.
run() {
    local wrk=(-t1 -c8 -d"${DURATION}s")
    if [ "$1" = create ]; then
        wrk_report "${wrk[@]}" -s "$BENCH/create.lua" "$2/v3/attachments" -- "$API_KEY"
    else
        # shellcheck disable=SC2086
        wrk_report "${wrk[@]}" -s "$BENCH/send_many.lua" "$2" -- "$API_KEY" "$TEXT" $CHATS
    fi
}

# both WHAT FIRST_NODE SECOND_NODE: prints the sum of two concurrent runs.
both() {
    run "$1" "$2" >"$WORK/first" &
    local first=$!
    run "$1" "$3" >"$WORK/second"
    wait $first
    sleep 1
    awk '{ sum += $1 } END { print sum }' "$WORK/first" "$WORK/second"
}

for what in create send; do
    ones=() twos=()
    for ((round = 0; round <= ROUNDS; round++)); do
        one=$(both $what "${nodes[0]}" "${nodes[0]}")
        two=$(both $what "${nodes[0]}" "${nodes[1]}")
        progress "$what, round $round: one server $one, two servers $two a second"
        [ $round = 0 ] || { ones+=("$one") twos+=("$two"); }
    done
    result "nodes/$what" "a-second" "$(median "${twos[@]}")" one-server "$(median "${ones[@]}")" higher
done
