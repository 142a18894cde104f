#!/usr/bin/env bash
# Milliseconds from POST voicememo to its response, for each format: the first send of a file, which
# analyzes its audio and builds its variant, and a later one; compared with ffprobe, and ffmpeg for
# CAF, by hand.
# shellcheck source=bench/common.sh
. "$(dirname "$0")/common.sh"
need curl curl
need ffmpeg ffmpeg

start_haversack "$WORK/haversack" HAVERSACK_RATE_LIMIT_WINDOW_SECONDS=0
if [[ $(curl -sSf "$API/readyz") == *"ffmpeg: none"* ]]; then
    echo "the server did not find ffmpeg" >&2
    exit 1
fi

# A sample of 2.5 seconds, repeated 24 times.
long() {
    ffmpeg -nostdin -v error -stream_loop 23 -i "$REPO/tests/corpus/voice.m4a" "${@:2}" "$WORK/$1"
}
long minute.m4a -c:a aac
long minute.caf -c:a pcm_s16le

# Name, file, declared type, and the audio codec for ffmpeg by hand, or - for none.
cat >"$WORK/formats" <<END
m4a $REPO/tests/corpus/voice.m4a audio/x-m4a -
mp3 $REPO/tests/corpus/song-cbr-id3v2.mp3 audio/mpeg -
aac $REPO/tests/corpus/voice.aac audio/aac -
wav $REPO/tests/corpus/sound.wav audio/x-wav -
aiff $REPO/tests/corpus/sound.aiff audio/x-aiff -
amr $REPO/tests/corpus/voice.amr audio/amr -
caf-pcm $REPO/tests/corpus/voice-pcm.caf audio/x-caf aac
caf-aac $REPO/tests/corpus/voice-aac.caf audio/x-caf copy
60s-m4a $WORK/minute.m4a audio/x-m4a -
60s-caf $WORK/minute.caf audio/x-caf aac
END

python3 "$BENCH/voice_memo.py" "$API" "$API_KEY" "${BENCH_SENDS:-30}" "$WORK/by-hand.m4a" \
    <"$WORK/formats" >"$WORK/medians"
while read -r name first later message by_hand; do
    result "memo/$name/first" ms "$first" by-hand "$by_hand" lower
    result "memo/$name/later" ms "$later" by-hand "$by_hand" lower
    # The file as a media part of a message; nearly the same for all formats.
    [ "$name" != m4a ] || result "memo/$name/later" ms "$later" message "$message" lower
done <"$WORK/medians"
