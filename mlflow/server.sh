#!/bin/sh
# A tracking server without containers: PostgreSQL (Debian: postgresql), MLflow with passwords.
#     sh mlflow/server.sh [DIR] [postgresql|sqlite]
# Everything lies in DIR (default: mlflow-server): secrets.env and client.env, made at the first
# start with mode 600, the database, the artifacts. Needs `pip install '.[server]'` (PYTHON
# names the interpreter, python3 else).
# It listens on loopback; MLFLOW_PORT, MLFLOW_BIND and MLFLOW_NAMES change port, address and the
# names that it answers to. Ctrl-C or SIGTERM ends the server and its database.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:-mlflow-server}"
dir=$(cd "${1:-mlflow-server}" && pwd)
store=${2:-postgresql}
bind=${MLFLOW_BIND:-127.0.0.1}
port=${MLFLOW_PORT:-5000}
# Studies of this machine call it by the address that it listens on, where that is one.
host=$bind
[ "$bind" != 0.0.0.0 ] || host=127.0.0.1
names=${MLFLOW_NAMES:-localhost:*,127.0.0.1:*,$host:*}

umask 077
sh "$here/secrets.sh" "$dir/secrets.env"
set -a
. "$dir/secrets.env"
set +a
cat > "$dir/client.env" <<END
MLFLOW_TRACKING_URI=http://$host:$port
MLFLOW_TRACKING_USERNAME=$MLFLOW_AUTH_ADMIN_USERNAME
MLFLOW_TRACKING_PASSWORD=$MLFLOW_AUTH_ADMIN_PASSWORD
END

server=
database=
end() {
    trap - EXIT INT TERM
    [ -z "$server" ] || { kill "$server" 2> /dev/null && wait "$server" || true; }
    [ -z "$database" ] || {
        kill -INT "$(head -1 "$dir/postgresql/data/postmaster.pid")" 2> /dev/null || true
        wait "$database" || true
    }
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

case $store in
sqlite)
    tracking="sqlite:///$dir/mlflow.db"
    users="sqlite:///$dir/users.db"
    ;;
postgresql)
    found=$(ls -d /usr/lib/postgresql/*/bin 2> /dev/null | sort -V | tail -1)
    PATH=$PATH:$found
    [ -n "$found" ] || { echo "no initdb: apt-get install postgresql" >&2; exit 1; }
    # PostgreSQL does not run as root; its socket is in a folder of its own, and no port is open.
    as=
    if [ "$(id -u)" = 0 ]; then
        as="runuser -u postgres --"
        chmod 711 "$dir"
    fi
    mkdir -p "$dir/postgresql"
    [ -z "$as" ] || chown postgres "$dir/postgresql"
    data=$dir/postgresql/data
    if [ ! -f "$data/PG_VERSION" ]; then
        echo "$POSTGRES_PASSWORD" | $as sh -c 'umask 077; cat > "$1"' sh "$dir/postgresql/first"
        $as "$found/initdb" --pgdata "$data" --username mlflow --encoding UTF8 --locale C \
            --auth scram-sha-256 --pwfile "$dir/postgresql/first" > "$dir/initdb.log"
        rm "$dir/postgresql/first"
    fi
    $as "$found/postgres" -D "$data" -k "$dir/postgresql" -c listen_addresses= > "$dir/postgresql.log" 2>&1 &
    database=$!
    export PGPASSWORD="$POSTGRES_PASSWORD" PGHOST="$dir/postgresql" PGUSER=mlflow
    tries=0
    until psql -q -d postgres -c 'select 1' > /dev/null 2>&1; do
        tries=$((tries + 1))
        if [ $tries -gt 120 ] || ! kill -0 "$database" 2> /dev/null; then
            echo "PostgreSQL does not start: see $dir/postgresql.log" >&2
            exit 1
        fi
        sleep 0.5
    done
    for name in mlflow users; do
        psql -q -d postgres -tc "select 1 from pg_database where datname = '$name'" | grep -q 1 ||
            createdb "$name"
    done
    tracking="postgresql+psycopg2:///mlflow"
    users="postgresql+psycopg2:///users"
    ;;
*)
    echo "store must be postgresql or sqlite, got $store" >&2
    exit 1
    ;;
esac

cat > "$dir/users.ini" <<END
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = $users
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
END
mkdir -p "$dir/artifacts"
cd "$dir"  # not the repository's root, where a folder is called mlflow too
export MLFLOW_AUTH_CONFIG_PATH="$dir/users.ini" MLFLOW_BACKEND_STORE_URI="$tracking"
# It tells nobody how it is used, and has no workers for language models: they are eight processes.
export MLFLOW_DISABLE_TELEMETRY="${MLFLOW_DISABLE_TELEMETRY:-true}"
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION="${MLFLOW_SERVER_ENABLE_JOB_EXECUTION:-false}"
"${PYTHON:-python3}" -m mlflow server --app-name basic-auth --host "$bind" --port "$port" --allowed-hosts "$names" \
    --artifacts-destination "$dir/artifacts" --workers "${MLFLOW_WORKERS:-2}" &
server=$!
echo "http://$host:$port for those who have $dir/client.env"
wait "$server"
