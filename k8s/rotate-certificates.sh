#!/usr/bin/env bash
# Has cert-manager issue every certificate of the release anew, now, as `cmctl renew` does. Pods take them up by
# themselves, within the minute or two that the kubelet needs to bring them.
#
# usage: k8s/rotate-certificates.sh [NAMESPACE]
set -euo pipefail
namespace=${1:-almagest}

now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
condition='{"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "Asked for by hand"'
patch="{\"status\": {\"conditions\": [$condition, \"lastTransitionTime\": \"$now\"}]}}"
# Not the authority itself: its certificate says isCA.
leaves='{range .items[?(@.spec.isCA!=true)]}{.metadata.name}{"\n"}{end}'
for certificate in $(kubectl --namespace "$namespace" get certificates.cert-manager.io --output "jsonpath=$leaves"); do
  kubectl --namespace "$namespace" patch certificates.cert-manager.io "$certificate" \
    --subresource=status --type=merge --patch "$patch"
done
