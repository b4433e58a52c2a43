#!/bin/bash
# Entry point with the contract of the official PostgreSQL image, as far as it is documented there:
#   POSTGRES_PASSWORD (or POSTGRES_HOST_AUTH_METHOD=trust) is required for an empty data directory;
#   POSTGRES_USER (postgres), POSTGRES_DB (the user), POSTGRES_INITDB_ARGS, PGDATA; each also as <NAME>_FILE;
#   *.sh, *.sql in /docker-entrypoint-initdb.d run once; "postgres" and arguments that start with "-" start the server;
#   as root the data directory is handed to uid 999 first; as any other uid the directory must be writable already.
set -Eeuo pipefail

from_file() {
    local name=$1 file="${1}_FILE"
    if [ -n "${!file:-}" ]; then
        [ -z "${!name:-}" ] || { echo "error: both $name and $file are set" >&2; exit 1; }
        export "$name"="$(<"${!file}")"
        unset "$file"
    fi
}

sql_literal() { printf "'%s'" "${1//\'/\'\'}"; }
sql_name() { printf '"%s"' "${1//\"/\"\"}"; }

# initdb wants a name for its uid; one that was chosen by whoever runs the container has none.
name_this_uid() {
    if ! getent passwd "$(id -u)" >/dev/null; then
        NSS_WRAPPER_PASSWD=$(mktemp)
        NSS_WRAPPER_GROUP=$(mktemp)
        LD_PRELOAD=$(find /usr/lib -name libnss_wrapper.so | head -n 1)
        export NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP LD_PRELOAD
        echo "postgres:x:$(id -u):$(id -g):PostgreSQL:$PGDATA:/bin/false" >"$NSS_WRAPPER_PASSWD"
        echo "postgres:x:$(id -g):" >"$NSS_WRAPPER_GROUP"
    fi
}

forget_name() {
    if [ -n "${NSS_WRAPPER_PASSWD:-}" ]; then
        rm -f "$NSS_WRAPPER_PASSWD" "$NSS_WRAPPER_GROUP"
        unset LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
    fi
}

initialise() {
    from_file POSTGRES_PASSWORD
    from_file POSTGRES_USER
    from_file POSTGRES_DB
    from_file POSTGRES_INITDB_ARGS
    local user=${POSTGRES_USER:-postgres}
    local database=${POSTGRES_DB:-$user}
    local method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
    if [ -z "${POSTGRES_PASSWORD:-}" ] && [ "$method" != trust ]; then
        echo "error: the database is empty and POSTGRES_PASSWORD is not set" >&2
        exit 1
    fi
    name_this_uid
    # shellcheck disable=SC2086  # the arguments are meant to be split
    initdb --pgdata="$PGDATA" --username="$user" --pwfile=<(printf '%s\n' "${POSTGRES_PASSWORD:-unused}") \
        --auth-local=trust --auth-host="$method" ${POSTGRES_INITDB_ARGS:-}
    printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"
    sed -ri "s/^#?listen_addresses.*/listen_addresses = '*'/" "$PGDATA/postgresql.conf"
    pg_ctl -D "$PGDATA" -o "-c listen_addresses='' -c unix_socket_directories=/tmp" -w start
    local psql=(psql -v ON_ERROR_STOP=1 --no-psqlrc --host /tmp --username "$user")
    if [ "$database" != postgres ]; then
        "${psql[@]}" --dbname postgres --command "CREATE DATABASE $(sql_name "$database")"
    fi
    local script
    for script in /docker-entrypoint-initdb.d/*; do
        case $script in
        *.sh) if [ -x "$script" ]; then "$script"; else . "$script"; fi ;;
        *.sql) "${psql[@]}" --dbname "$database" --file "$script" ;;
        esac
    done
    pg_ctl -D "$PGDATA" -m fast -w stop
    forget_name
}

[ "${1:0:1}" != - ] || set -- postgres "$@"
if [ "$1" = postgres ]; then
    mkdir -p "$PGDATA"
    chmod 0700 "$PGDATA" 2>/dev/null || true
    if [ "$(id -u)" = 0 ]; then
        mkdir -p /var/run/postgresql
        chown -R postgres:postgres "$PGDATA" /var/run/postgresql
        exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
    fi
    [ -s "$PGDATA/PG_VERSION" ] || initialise
fi
exec "$@"
