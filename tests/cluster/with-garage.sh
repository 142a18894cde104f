#!/usr/bin/env bash
# Starts a single-node Garage with one bucket, runs a command, and deletes Garage and its data
# afterwards. The command finds the bucket URL in HAVERSACK_TEST_BLOBS_URL, the credentials in the
# AWS variables, and the path of a control program (`stop`, `start`) in HAVERSACK_TEST_GARAGE_CTL.
# Builds Garage from crates.io if it is not installed, which takes a quarter of an hour. Needs
# Python.
#
#   tests/cluster/with-garage.sh cargo test --test nodes
set -euo pipefail

tools="$(cd "$(dirname "$0")/../.." && pwd)/target/tools"
if [ ! -x "$tools/bin/garage" ]; then
    # Prefers a fast build over a fast program.
    CARGO_PROFILE_RELEASE_LTO=false CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        CARGO_PROFILE_RELEASE_DEBUG=0 cargo install --locked --quiet --root "$tools" garage@2.5.0
fi

folder=$(mktemp -d /tmp/haversack-garage.XXXXXX)
read -r s3 rpc admin < <(python3 -c '
import socket
sockets = [socket.socket() for _ in range(3)]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*[s.getsockname()[1] for s in sockets])')
hex() { python3 -c "import secrets; print(secrets.token_hex($1))"; }
cat >"$folder/garage.toml" <<TOML
metadata_dir = "$folder/meta"
data_dir = "$folder/data"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:$rpc"
rpc_public_addr = "127.0.0.1:$rpc"
rpc_secret = "$(hex 32)"

[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:$s3"
root_domain = ".s3.garage.localhost"

[admin]
api_bind_addr = "127.0.0.1:$admin"
TOML

AWS_ACCESS_KEY_ID="GK$(hex 12)"
AWS_SECRET_ACCESS_KEY=$(hex 32)
export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
cat >"$folder/ctl" <<CTL
#!/usr/bin/env bash
set -euo pipefail
healthy() {
    exec 3<>/dev/tcp/127.0.0.1/$admin || return 1
    printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3
    read -r _ status _ <&3
    exec 3>&-
    [ "\$status" = 200 ]
}
case "\$1" in
start)
    ! healthy 2>/dev/null || exit 0
    RUST_LOG=garage=warn GARAGE_DEFAULT_BUCKET=haversack GARAGE_DEFAULT_ACCESS_KEY=$AWS_ACCESS_KEY_ID \\
        GARAGE_DEFAULT_SECRET_KEY=$AWS_SECRET_ACCESS_KEY \\
        setsid "$tools/bin/garage" -c "$folder/garage.toml" server --single-node --default-bucket \\
        >>"$folder/log" 2>&1 </dev/null &
    echo \$! >"$folder/pid"
    # Garage listens before it has a layout, but is healthy only with one.
    for _ in \$(seq 300); do
        ! healthy 2>/dev/null || exit 0
        sleep 0.1
    done
    echo "Garage does not become healthy:" >&2
    tail -20 "$folder/log" >&2
    exit 1
    ;;
stop)
    kill "\$(cat "$folder/pid")"
    while kill -0 "\$(cat "$folder/pid")" 2>/dev/null; do sleep 0.05; done
    ;;
esac
CTL
chmod +x "$folder/ctl"
end() {
    "$folder/ctl" stop 2>/dev/null || true
    rm -rf "$folder"
}
trap end EXIT
"$folder/ctl" start

export HAVERSACK_TEST_GARAGE_CTL="$folder/ctl"
export HAVERSACK_TEST_BLOBS_URL="s3://haversack?region=garage&endpoint=http://127.0.0.1:$s3"
"$@"
