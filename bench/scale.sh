#!/usr/bin/env bash
# Effect of the database size: creates, sends and reads per second with 1,000 and with 1,000,000
# attachments, and the start, on SQLite and on PostgreSQL. The two sizes alternate. The ratio
# compares large with small, so 1 means no effect.
[ -n "${HAVERSACK_TEST_DATABASE_URL:-}" ] || exec "$(dirname "$0")/../tests/cluster/with-postgres.sh" "$0" "$@"
postgres=$HAVERSACK_TEST_DATABASE_URL
# shellcheck source=bench/common.sh
. "$(dirname "$0")/common.sh"
need curl curl
need wrk wrk

LARGE=${BENCH_ATTACHMENTS:-1000000}
SMALL=$((LARGE / 1000))
PHOTO=$REPO/tests/sdk/photo.jpg
FILE_TYPE=image/jpeg
AIM=50

# fill ENGINE NAME COUNT: creates and fills a database; sets DATABASE.
fill() {
    local engine=$1 name=$2 count=$3 target
    mkdir -p "$WORK/$name"
    if [ "$engine" = sqlite ]; then
        DATABASE="sqlite://$WORK/$name/haversack.db?mode=rwc"
        target=$WORK/$name/haversack.db
    else
        psql -qX "$postgres" -c "CREATE DATABASE \"$name\""
        DATABASE=${postgres%/*}/$name
        target=$DATABASE
    fi
    env HAVERSACK_DATA_DIR="$WORK/$name" HAVERSACK_DATABASE_URL="$DATABASE" "$HAVERSACK" \
        partner add bench --api-key "$API_KEY" --phone-number +12025550160 >/dev/null
    progress "filling $name with $count attachments"
    python3 "$BENCH/fill.py" "$count" "$target"
}

# start NAME DATABASE: sets API and HAVERSACK_PID.
start() {
    local port
    port=$(free_port)
    API=http://127.0.0.1:$port
    env HAVERSACK_DATA_DIR="$WORK/$1" HAVERSACK_DATABASE_URL="$2" HAVERSACK_LISTEN="127.0.0.1:$port" HAVERSACK_LOG=warn \
        HAVERSACK_MAX_PENDING_ATTACHMENTS=10000000 HAVERSACK_RATE_LIMIT_WINDOW_SECONDS=0 \
        "$HAVERSACK" serve >/dev/null 2>"$WORK/$1.log" &
    HAVERSACK_PID=$!
    PIDS+=("$HAVERSACK_PID")
    wait_ready "$API/healthz"
}

# prepare: uploads a photo and creates 64 chats, since sends into one chat are serialized; sets
# PART, CHATS and ATTACHMENT.
prepare() {
    local upload_url
    read -r ATTACHMENT upload_url _ < <(create_attachments 1 "$(stat -c %s "$PHOTO")")
    put "$PHOTO" "$upload_url" >/dev/null
    PART="{\"type\":\"media\",\"attachment_id\":\"$ATTACHMENT\"}"
    CHATS=$(python3 "$BENCH/open_chats.py" "$API" "$API_KEY" 64 person "$PART" | xargs)
}

# rate WHAT: prints the rate per second of the server at API.
rate() {
    local wrk=(-t2 -c16 -d"${DURATION}s")
    case $1 in
    create) wrk_report "${wrk[@]}" -s "$BENCH/create.lua" "$API/v3/attachments" -- "$API_KEY" ;;
    # shellcheck disable=SC2086
    send) wrk_report "${wrk[@]}" -s "$BENCH/send_many.lua" "$API" -- "$API_KEY" "$PART" $CHATS ;;
    read) wrk_report "${wrk[@]}" -s "$BENCH/get.lua" "$API/v3/attachments/$ATTACHMENT" -- "$API_KEY" ;;
    chats) wrk_report "${wrk[@]}" -s "$BENCH/get.lua" "$API/v3/chats?limit=20" -- "$API_KEY" ;;
    esac
    # Waits for pending deliveries, which would slow down the next run.
    sleep 1
    sync -f "$WORK"
}

for engine in sqlite postgres; do
    declare -A database=() api=() chats=() part=() attachment=()
    for size in small large; do
        [ $size = small ] && count=$SMALL || count=$LARGE
        fill $engine $engine-$size "$count"
        database[$size]=$DATABASE
    done
    starts=()
    for ((n = 1; n <= ROUNDS; n++)); do
        port=$(free_port)
        starts+=("$(env HAVERSACK_DATA_DIR="$WORK/$engine-large" HAVERSACK_DATABASE_URL="${database[large]}" \
            HAVERSACK_LISTEN="127.0.0.1:$port" HAVERSACK_LOG=warn python3 "$BENCH/startup.py" "$port" "$HAVERSACK" serve)")
    done
    result "scale/$engine/start" ms "$(median "${starts[@]}")" aim $AIM lower
    for size in small large; do
        start $engine-$size "${database[$size]}"
        prepare
        api[$size]=$API chats[$size]=$CHATS part[$size]=$PART attachment[$size]=$ATTACHMENT
    done
    for what in create send read chats; do
        small=() large=()
        for ((round = 0; round <= ROUNDS; round++)); do
            for size in small large; do
                API=${api[$size]} CHATS=${chats[$size]} PART=${part[$size]} ATTACHMENT=${attachment[$size]}
                own=$(rate $what)
                progress "$engine, $what, $size, round $round: $own a second"
                [ $round = 0 ] || { [ $size = small ] && small+=("$own") || large+=("$own"); }
            done
        done
        result "scale/$engine/$what" "a-second" "$(median "${large[@]}")" "$SMALL" "$(median "${small[@]}")" higher
    done
    stop "${PIDS[@]}"
    PIDS=()
done
