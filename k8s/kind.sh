#!/usr/bin/env bash
# The kind cluster that Almagest is developed on: a node, a registry on this machine, and what the chart stands on.
#
# usage: k8s/kind.sh check   what is missing on this machine, and how to get it
#        k8s/kind.sh up      make the cluster, or what is missing of it
#        k8s/kind.sh down    remove the cluster, its data and its registry
#
# CONTAINER_ENGINE=podman uses podman in place of docker. Nothing else on the machine is touched.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

CLUSTER=almagest
REGISTRY=almagest-registry
REGISTRY_PORT=5001
KIND_AT_LEAST=0.27.0 # from here on, containerd of the node images reads /etc/containerd/certs.d
HELM_AT_LEAST=3.17.0 # from here on, `helm template --dry-run=server` looks at what Tilt has made
CERT_MANAGER=v1.21.2
METRICS_SERVER=3.13.1

engine=${CONTAINER_ENGINE:-docker}
[ "$engine" = docker ] || export KIND_EXPERIMENTAL_PROVIDER=$engine

missing=0
lacks() {
  echo "missing: $1" >&2
  echo "         $2" >&2
  missing=1
}

# A program, the version that it must have, where to get it, and how it is asked for its own.
at_least() {
  if ! command -v "$1" >/dev/null; then
    lacks "$1" "$3"
    return
  fi
  have=$("$1" "${@:4}")
  have=${have#v}
  [ "$(printf '%s\n' "$2" "$have" | sort -V | head -n1)" = "$2" ] || lacks "$1 $2 or newer (this is $have)" "$3"
}

check() {
  if ! command -v "$engine" >/dev/null; then
    lacks "$engine" "https://docs.docker.com/engine/install, or podman with CONTAINER_ENGINE=podman"
  elif ! "$engine" info >/dev/null 2>&1; then
    lacks "a running $engine" "start it, and see that '$engine info' answers without sudo"
  fi
  at_least kind "$KIND_AT_LEAST" "https://kind.sigs.k8s.io/docs/user/quick-start/#installation" version -q
  at_least helm "$HELM_AT_LEAST" "https://helm.sh/docs/intro/install" version --template '{{.Version}}'
  command -v kubectl >/dev/null || lacks kubectl "https://kubernetes.io/docs/tasks/tools/#kubectl"
  command -v tilt >/dev/null || lacks tilt "https://docs.tilt.dev/install.html"
  [ "$missing" -eq 0 ] || exit 1
}

up() {
  check
  if [ "$("$engine" inspect -f '{{.State.Running}}' "$REGISTRY" 2>/dev/null)" != true ]; then
    "$engine" rm -f "$REGISTRY" >/dev/null 2>&1 || true
    "$engine" run -d --restart=always -p "127.0.0.1:$REGISTRY_PORT:5000" --name "$REGISTRY" docker.io/library/registry:3
  fi
  kind get clusters 2>/dev/null | grep -qx "$CLUSTER" || kind create cluster --config kind.yaml --wait 3m
  kubectl config use-context "kind-$CLUSTER"

  # In a node, localhost is the node. So containerd is told where localhost:5001 really is, and Tilt (by the ConfigMap
  # of KEP-1755) where it may push to.
  for node in $(kind get nodes --name "$CLUSTER"); do
    "$engine" exec "$node" mkdir -p "/etc/containerd/certs.d/localhost:$REGISTRY_PORT"
    "$engine" exec -i "$node" cp /dev/stdin "/etc/containerd/certs.d/localhost:$REGISTRY_PORT/hosts.toml" \
      <<<"[host.\"http://$REGISTRY:5000\"]"
  done
  [ -n "$("$engine" inspect -f '{{with index .NetworkSettings.Networks "kind"}}there{{end}}' "$REGISTRY")" ] ||
    "$engine" network connect kind "$REGISTRY"
  kubectl apply -f registry.yaml

  helm upgrade --install cert-manager oci://quay.io/jetstack/charts/cert-manager --version "$CERT_MANAGER" \
    --namespace cert-manager --create-namespace --values cert-manager.yaml --wait --timeout 5m
  helm upgrade --install metrics-server metrics-server --repo https://kubernetes-sigs.github.io/metrics-server \
    --version "$METRICS_SERVER" --namespace kube-system --set 'args={--kubelet-insecure-tls}' --wait --timeout 5m
  echo "The cluster is up: now 'tilt up'."
}

down() {
  kind delete cluster --name "$CLUSTER"
  "$engine" rm -f -v "$REGISTRY" >/dev/null 2>&1 || true
}

case "${1:-}" in
check | up | down) "$1" ;;
*)
  sed -n '4,6s/^# //p' kind.sh >&2
  exit 2
  ;;
esac
