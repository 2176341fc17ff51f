#!/usr/bin/env bash
# Runs a command as a client of the release on the current cluster: with ALMAGEST_URL, ALMAGEST_CA, ALMAGEST_EMAIL and
# ALMAGEST_PASSWORD for it, the `almagest` command on the PATH, and its first admin logged in there.
#
# usage: k8s/with-cluster.sh COMMAND [ARGUMENT...]
#
# NAMESPACE and RELEASE (both `almagest`) say which release is meant, ALMAGEST_URL where its door is.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
namespace=${NAMESPACE:-almagest}
release=${RELEASE:-almagest}
[ $# -gt 0 ] || { sed -n '5s/^# //p' "$0" >&2; exit 2; }

secret() {
  kubectl --namespace "$namespace" get secret "$1" --output "go-template={{index .data \"$2\" | base64decode}}"
}

umask 077
export ALMAGEST_STATE=$root/.almagest/cluster-$namespace
mkdir -p "$ALMAGEST_STATE"
secret "$release-web" ca.crt >"$ALMAGEST_STATE/door.crt"
ALMAGEST_PASSWORD=$(secret "$release-first-admin" password)
export ALMAGEST_PASSWORD
export ALMAGEST_URL=${ALMAGEST_URL:-https://localhost:8443}
export ALMAGEST_CA=$ALMAGEST_STATE/door.crt
export ALMAGEST_EMAIL=${ALMAGEST_EMAIL:-admin@localhost}

make --silent --directory "$root" .venv/runtime >&2
export PATH=$root/.venv/bin:$PATH
almagest token >/dev/null 2>&1 ||
  almagest login --email "$ALMAGEST_EMAIL" --password-stdin <<<"$ALMAGEST_PASSWORD" >&2
exec "$@"
