#!/usr/bin/env bash
# Starts a PostgreSQL server, runs a command with its URL in HAVERSACK_TEST_DATABASE_URL, and
# deletes the server and its data afterwards. HAVERSACK_TEST_POSTGRES_CTL is the path of a control
# program (`stop`, `start`, `restart`; stop and restart take a mode of pg_ctl(1), such as `fast`).
# If HAVERSACK_TEST_DATABASE_URL is already set, that server is used. Installs the Debian packages
# if PostgreSQL is missing. Needs Python.
#
#   tests/cluster/with-postgres.sh cargo test --test it
set -euo pipefail

[ -z "${HAVERSACK_TEST_DATABASE_URL:-}" ] || exec "$@"

# The folder may exist with only the client installed.
programs() { ls /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -1 | xargs -r dirname; }
if [ -z "$(programs)" ]; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql; } >/dev/null
fi
bin=$(programs)

folder=$(mktemp -d /tmp/haversack-postgres.XXXXXX)
as=(env)
# PostgreSQL refuses to run as root.
if [ "$(id -u)" = 0 ]; then
    chown postgres "$folder"
    as=(setpriv --reuid=postgres --regid=postgres --clear-groups env -C "$folder")
fi
end() {
    "$folder/ctl" stop immediate 2>/dev/null || true
    rm -rf "$folder"
}
trap end EXIT

"${as[@]}" "$bin/initdb" -D "$folder/data" -U haversack --auth=trust --locale=C --encoding=UTF8 >/dev/null
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
# A restart reuses the options of the start; starting a running server is not an error.
cat >"$folder/ctl" <<CTL
#!/usr/bin/env bash
set -euo pipefail
pg_ctl() { ${as[*]} "$bin/pg_ctl" -D "$folder/data" -w "\$@" >/dev/null </dev/null; }
case "\$1" in
start) pg_ctl status || pg_ctl -l "$folder/log" -o "-p $port -k $folder -c listen_addresses=127.0.0.1 -c max_connections=400" start ;;
stop) pg_ctl -m "\${2:-fast}" stop ;;
restart) pg_ctl status || pg_ctl -l "$folder/log" -m "\${2:-fast}" restart ;;
*) exit 2 ;;
esac
CTL
chmod +x "$folder/ctl"
"$folder/ctl" start
"${as[@]}" "$bin/createdb" -h 127.0.0.1 -p "$port" -U haversack haversack

export HAVERSACK_TEST_POSTGRES_CTL="$folder/ctl"
export HAVERSACK_TEST_DATABASE_URL="postgres://haversack@127.0.0.1:$port/haversack"
"$@"
