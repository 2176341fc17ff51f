{{/*
Secrets that are given, or made once and found again. What is made is remembered while one release is rendered, so that
a Secret and the checksum of it agree; without a cluster to ask (`helm template`, Argo CD) give Secrets of your own.
*/}}

{{- define "almagest.keySecret" -}}
{{- .Values.secrets.keyEncryptionKey.existingSecret | default (printf "%s-key-encryption-key" (include "almagest.fullname" .)) -}}
{{- end -}}

{{- define "almagest.adminSecret" -}}
{{- .Values.admin.existingSecret | default (printf "%s-first-admin" (include "almagest.fullname" .)) -}}
{{- end -}}

{{- define "almagest.redisSecret" -}}
{{- if eq .Values.redis.source "external" -}}
{{- required "redis.external.existingSecret is needed" .Values.redis.external.existingSecret -}}
{{- else -}}
{{- include "almagest.fullname" . }}-redis
{{- end -}}
{{- end -}}

{{- define "almagest.webSecret" -}}
{{- .Values.door.tls.existingSecret | default (printf "%s-web" (include "almagest.fullname" .)) -}}
{{- end -}}

{{/*
The plugin of the KMS as a sidecar of auth, or nothing for others: it is there before auth asks it, and ends after. Takes
a dict: root, name.
*/}}
{{- define "almagest.kmsPlugin" -}}
{{- $kms := .root.Values.secrets.keyEncryptionKey.kms -}}
{{- if and (eq .name "auth") $kms.enabled -}}
{{- if not .root.Values.secrets.keyEncryptionKey.existingSecret -}}
{{- fail "secrets.keyEncryptionKey.existingSecret is needed with a kms: only that wraps a key" -}}
{{- end -}}
- name: kms
  image: {{ required "secrets.keyEncryptionKey.kms.image is needed" $kms.image }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  restartPolicy: Always
  securityContext: {{- include "almagest.containerSecurity" .root | nindent 4 }}
  {{- with $kms.args }}
  args: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $kms.env }}
  env: {{- toYaml . | nindent 4 }}
  {{- end }}
  resources: {{- toYaml $kms.resources | nindent 4 }}
  volumeMounts:
    - { name: kms, mountPath: /run/kms }
    {{- with $kms.volumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
{{- end -}}

{{/* The data of a Secret that there is, as JSON, or {}. Takes a dict: root, secret. */}}
{{- define "almagest.found" -}}
{{- $secret := lookup "v1" "Secret" .root.Release.Namespace .secret | default dict -}}
{{- $secret.data | default dict | toJson -}}
{{- end -}}

{{/* A value of a Secret that is made once: found, remembered, or made. Takes a dict: root, secret, key, kind. */}}
{{- define "almagest.once" -}}
{{- $memory := get .root.Values "memory" | default dict -}}
{{- $_ := set .root.Values "memory" $memory -}}
{{- $place := printf "%s/%s" .secret .key -}}
{{- if not (hasKey $memory $place) -}}
{{- $found := get (include "almagest.found" . | fromJson) .key -}}
{{- if $found -}}
{{- $_ := set $memory $place ($found | b64dec) -}}
{{- else if eq .kind "key" -}}
{{- $_ := set $memory $place (randBytes 32) -}}
{{- else -}}
{{- $_ := set $memory $place (randAlphaNum 40) -}}
{{- end -}}
{{- end -}}
{{- get $memory $place -}}
{{- end -}}

{{- define "almagest.redisPassword" -}}
{{- include "almagest.once" (dict "root" .root "secret" (printf "%s-redis" (include "almagest.fullname" .root)) "key" (printf "%s-password" .name) "kind" "password") -}}
{{- end -}}

{{/*
What changes when a secret of a service does, other than certificates, which are taken up without a restart. Takes a
dict: root, name.
*/}}
{{- define "almagest.secretChecksum" -}}
{{- $root := .root -}}
{{- $component := include "almagest.component" . | fromJson -}}
{{- $seen := list -}}
{{- if $component.redis -}}
{{- if eq $root.Values.redis.source "bundled" -}}
{{- $seen = append $seen (include "almagest.redisPassword" .) -}}
{{- else -}}
{{- $seen = append $seen (get (include "almagest.found" (dict "root" $root "secret" (include "almagest.redisSecret" $root)) | fromJson) (printf "%s-url" .name)) -}}
{{- end -}}
{{- end -}}
{{- if and $component.database (eq $root.Values.postgres.source "external") -}}
{{- $seen = append $seen (include "almagest.found" (dict "root" $root "secret" (index $root.Values.postgres.external.secrets .name))) -}}
{{- end -}}
{{- if eq .name "auth" -}}
{{- $key := $root.Values.secrets.keyEncryptionKey -}}
{{- if $key.existingSecret -}}
{{- $seen = append $seen (include "almagest.found" (dict "root" $root "secret" $key.existingSecret)) -}}
{{- else -}}
{{- $seen = append $seen (include "almagest.once" (dict "root" $root "secret" (include "almagest.keySecret" $root) "key" $key.key "kind" "key")) -}}
{{- end -}}
{{- end -}}
{{- $seen | toJson | sha256sum -}}
{{- end -}}
