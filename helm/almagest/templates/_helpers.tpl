{{/* Names, labels, images and references that all templates share. */}}

{{- define "almagest.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What pods are chosen by. Takes a dict: root, component. */}}
{{- define "almagest.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "almagest.labels" -}}
{{ include "almagest.selector" . }}
app.kubernetes.io/part-of: almagest
app.kubernetes.io/version: {{ .root.Values.image.tag | default .root.Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* A component with what `componentDefaults` says of it, as JSON. Takes a dict: root, name. */}}
{{- define "almagest.component" -}}
{{- $own := deepCopy (index .root.Values.components .name) -}}
{{- mergeOverwrite (deepCopy .root.Values.componentDefaults) $own | toJson -}}
{{- end -}}

{{/* The image of a service. Takes a dict: root, name. */}}
{{- define "almagest.image" -}}
{{- $component := include "almagest.component" . | fromJson -}}
{{- if $component.image -}}
{{- $component.image -}}
{{- else -}}
{{- printf "%s/%s:%s" .root.Values.image.repository .name (.root.Values.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* The name by which a Service of ours is found in the whole cluster. Takes a dict: root, service. */}}
{{- define "almagest.host" -}}
{{ include "almagest.fullname" .root }}-{{ .service }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end -}}

{{/* What keeps a pod to what it needs (Pod Security Standard `restricted`). Takes the numeric user. */}}
{{- define "almagest.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "almagest.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
privileged: false
capabilities: { drop: [ALL] }
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{/* What every pod says first. Takes the root. */}}
{{- define "almagest.podCommon" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The Secret with a workload's identity. Takes a dict: root, workload. */}}
{{- define "almagest.identitySecret" -}}
{{- if eq .root.Values.identity.source "secrets" -}}
{{- .root.Values.identity.secretPrefix }}{{ .workload -}}
{{- else -}}
{{- include "almagest.fullname" .root }}-identity-{{ .workload -}}
{{- end -}}
{{- end -}}

{{/* The issuer, as an issuerRef. Takes the root. */}}
{{- define "almagest.issuerRef" -}}
{{- with .Values.identity.issuer }}
{{- if .create }}
name: {{ include "almagest.fullname" $ }}-authority
kind: Issuer
group: cert-manager.io
{{- else }}
name: {{ required "identity.issuer.name is needed when identity.issuer.create is false" .name }}
kind: {{ .kind }}
group: {{ .group }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
A workload's identity as a volume. Never by subPath, so that what is renewed is seen at once. Takes a dict: root,
workload.
*/}}
{{- define "almagest.identityVolume" -}}
name: identity
{{- $identity := .root.Values.identity }}
{{- if eq $identity.source "csi" }}
{{- $issuer := include "almagest.issuerRef" .root | fromYaml }}
csi:
  driver: csi.cert-manager.io
  readOnly: true
  volumeAttributes:
    csi.cert-manager.io/issuer-name: {{ $issuer.name }}
    csi.cert-manager.io/issuer-kind: {{ $issuer.kind }}
    csi.cert-manager.io/issuer-group: {{ $issuer.group }}
    csi.cert-manager.io/common-name: {{ .workload | replace "-" "_" }}
    csi.cert-manager.io/uri-sans: spiffe://{{ .root.Values.trustDomain }}/{{ .workload }}
    csi.cert-manager.io/dns-names: {{ .workload }}.{{ .root.Values.trustDomain }}
    csi.cert-manager.io/key-usages: digital signature,server auth,client auth
    csi.cert-manager.io/key-encoding: PKCS8
    csi.cert-manager.io/duration: {{ $identity.duration }}
    csi.cert-manager.io/renew-before: {{ $identity.renewBefore }}
    csi.cert-manager.io/fs-group: "65532"
{{- else }}
projected:
  defaultMode: 0440
  sources:
    - secret:
        name: {{ include "almagest.identitySecret" . }}
        items:
          - { key: tls.crt, path: tls.crt }
          - { key: tls.key, path: tls.key }
          {{- if not $identity.bundle.name }}
          - { key: ca.crt, path: ca.crt }
          {{- end }}
    {{- include "almagest.bundleSource" .root | nindent 4 }}
{{- end }}
{{- end -}}

{{/* The authorities that are believed, when they are told apart from the certificates. Takes the root. */}}
{{- define "almagest.bundleSource" -}}
{{- with .Values.identity.bundle }}
{{- if .name }}
- {{ ternary "secret" "configMap" (eq .kind "Secret") }}:
    name: {{ .name }}
    items:
      - { key: {{ .key }}, path: ca.crt }
{{- end }}
{{- end }}
{{- end -}}

{{/* The identity of a bundled server, whose names are those of Services. Takes a dict: root, workload. */}}
{{- define "almagest.serverIdentity" -}}
name: identity
projected:
  defaultMode: 0440
  sources:
    - secret:
        name: {{ include "almagest.identitySecret" . }}
        items:
          - { key: tls.crt, path: tls.crt }
          - { key: tls.key, path: tls.key }
          {{- if not .root.Values.identity.bundle.name }}
          - { key: ca.crt, path: ca.crt }
          {{- end }}
    {{- include "almagest.bundleSource" .root | nindent 4 }}
{{- end -}}
