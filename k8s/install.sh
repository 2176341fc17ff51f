#!/usr/bin/env bash
# Builds the images as they are delivered, pushes them to the cluster's registry, and installs or upgrades the release
# by helm: what `make cluster-test` is about. `tilt up` is for development; do not use both in one namespace.
#
# usage: k8s/install.sh [HELM-ARGUMENT...]
#
# NAMESPACE and RELEASE (both `almagest`), REGISTRY (localhost:5001, as k8s/kind.sh made it) and TAG (the commit) may be
# given.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
engine=${CONTAINER_ENGINE:-docker}
namespace=${NAMESPACE:-almagest}
images=${REGISTRY:-localhost:5001}/almagest
tag=${TAG:-$(git describe --always "--dirty=-$(date +%s)")} # nodes keep what they have by a name

CONTAINER_ENGINE=$engine python3 tools/images.py --tag "$tag"
for service in auth catalog-command catalog-query event-store gateway worker; do
  "$engine" tag "almagest/$service:$tag" "$images/$service:$tag"
  "$engine" push "$images/$service:$tag"
done
sed "s/^  name: almagest$/  name: $namespace/" k8s/namespace.yaml | kubectl apply -f -
helm upgrade --install "${RELEASE:-almagest}" helm/almagest --namespace "$namespace" \
  --values helm/almagest/values-dev.yaml --set-string "image.repository=$images,image.tag=$tag" \
  --wait --wait-for-jobs --timeout 15m "$@"
