#!/usr/bin/env bash
# Runs a command with a PostgreSQL server of its own, whose URL is in HAVERSACK_TEST_DATABASE_URL, and removes the server
# afterwards. If that variable is set already, the server it names is used. Installs Debian's packages if there is none.
#
#   tests/cluster/with-postgres.sh cargo test --test it
set -euo pipefail

[ -z "${HAVERSACK_TEST_DATABASE_URL:-}" ] || exec "$@"

programs() { ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1; }
if [ -z "$(programs)" ]; then
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql; } >/dev/null
fi
bin=$(programs)

folder=$(mktemp -d /tmp/haversack-postgres.XXXXXX)
# PostgreSQL refuses to run as root.
if [ "$(id -u)" = 0 ]; then
    chown postgres "$folder"
    as() { setpriv --reuid=postgres --regid=postgres --clear-groups env -C "$folder" "$@"; }
else
    as() { "$@"; }
fi
stop() {
    as "$bin/pg_ctl" -D "$folder/data" -m immediate -w stop >/dev/null 2>&1 || true
    rm -rf "$folder"
}
trap stop EXIT

as "$bin/initdb" -D "$folder/data" -U haversack --auth=trust --locale=C --encoding=UTF8 >/dev/null
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
as "$bin/pg_ctl" -D "$folder/data" -w -l "$folder/log" start \
    -o "-p $port -k $folder -c listen_addresses=127.0.0.1 -c max_connections=400" >/dev/null
as "$bin/createdb" -h 127.0.0.1 -p "$port" -U haversack haversack

# For tests that stop and start it.
export HAVERSACK_TEST_POSTGRES_CTL="$bin/pg_ctl -D $folder/data"
export HAVERSACK_TEST_DATABASE_URL="postgres://haversack@127.0.0.1:$port/haversack"
"$@"
