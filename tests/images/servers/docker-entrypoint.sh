#!/bin/sh
# What the entry point of the official image of Postgres does with what the chart tells it: on an empty volume a
# database is made, and what is in /docker-entrypoint-initdb.d is run by a server that listens on its socket only; then
# the server is started as it was asked for.
set -eu
# Where the official image's programs have their socket without being told.
[ "$1" != postgres ] || set -- "$@" -c unix_socket_directories=/var/run/postgresql
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  if [ -z "${POSTGRES_PASSWORD:-}" ] && [ "${POSTGRES_HOST_AUTH_METHOD:-}" != trust ]; then
    echo "Error: Database is uninitialized and superuser password is not specified." >&2
    exit 1
  fi
  mkdir -p "$PGDATA"
  chmod 00700 "$PGDATA"
  eval "initdb --username=postgres --pgdata=\"\$PGDATA\" ${POSTGRES_INITDB_ARGS:-}"
  pg_ctl -D "$PGDATA" -o "$(shift; printf "'%s' " "$@") -c listen_addresses='' -p 5432" -w start
  for file in /docker-entrypoint-initdb.d/*.sql; do
    psql -v ON_ERROR_STOP=1 --no-psqlrc --no-password --username=postgres --dbname=postgres --file="$file"
  done
  pg_ctl -D "$PGDATA" -m fast -w stop
fi
exec "$@"
