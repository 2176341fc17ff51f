{{/* What each process is told: the same for a service's pods, its migrations and the first admin. */}}

{{/*
The environment that is no secret, as JSON. Every name is a setting of docs/configuration.md. Takes a dict: root, name,
role (who comes to the databases; as a rule the service), owner (whether as the owner).
*/}}
{{- define "almagest.environment" -}}
{{- $root := .root -}}
{{- $name := .name -}}
{{- $component := include "almagest.component" . | fromJson -}}
{{- $told := dict
  "ALMAGEST_TRUST_DOMAIN" $root.Values.trustDomain
  "ALMAGEST_IDENTITY_DIRECTORY" "/var/run/almagest/identity"
  "ALMAGEST_DENY_LIST" "/etc/almagest/deny-list/deny-list"
  "ALMAGEST_LOG_LEVEL" $root.Values.logLevel
  "ALMAGEST_DRAIN_SECONDS" ($component.shutdown.drainSeconds | toString)
  "ALMAGEST_TRACE_RATE_PER_SECOND" ($root.Values.tracing.ratePerSecond | toString)
-}}
{{- if eq $name "gateway" -}}
{{- $_ := set $told "ALMAGEST_LISTEN" (printf "%s:8443" $root.Values.listenAddress) -}}
{{- $_ := set $told "ALMAGEST_TLS_CERTIFICATE" "/var/run/almagest/web/tls.crt" -}}
{{- $_ := set $told "ALMAGEST_TLS_KEY" "/var/run/almagest/web/tls.key" -}}
{{- else -}}
{{- $_ := set $told "ALMAGEST_LISTEN" (printf "%s:9090" $root.Values.listenAddress) -}}
{{- $_ := set $told "ALMAGEST_HTTP_LISTEN" (printf "%s:9091" $root.Values.listenAddress) -}}
{{- $_ := set $told "ALMAGEST_CONNECTION_SECONDS" ($root.Values.identity.connectionSeconds | toString) -}}
{{- end -}}
{{- range $callee := $component.calls -}}
{{- $host := include "almagest.host" (dict "root" $root "service" $callee) -}}
{{- $_ := set $told (printf "ALMAGEST_%s_TARGET" ($callee | upper | replace "-" "_")) (printf "dns:///%s:9090" $host) -}}
{{- end -}}
{{- if and $component.database (ne $root.Values.postgres.source "external") -}}
{{- $_ := set $told "ALMAGEST_DATABASE_URLS" (include "almagest.dsns" (dict "root" $root "stem" $component.database "role" .role)) -}}
{{- end -}}
{{- if eq $name "auth" -}}
{{- $_ := set $told "ALMAGEST_KEY_ENCRYPTION_KEY_FILE" "/etc/almagest/keys/key-encryption-key" -}}
{{- if and $root.Values.secrets.keyEncryptionKey.kms.enabled (not .owner) -}}
{{- $_ := set $told "ALMAGEST_KEY_MANAGEMENT_SOCKET" "/run/kms/plugin.sock" -}}
{{- end -}}
{{- with $root.Values.secrets.keyEncryptionKey.olderKeys -}}
{{- $files := list -}}
{{- range . -}}
{{- $files = append $files (printf "/etc/almagest/keys/older/%s" .) -}}
{{- end -}}
{{- $_ := set $told "ALMAGEST_OLDER_KEY_ENCRYPTION_KEY_FILES" ($files | toJson) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $name "event-store") $root.Values.archives.enabled -}}
{{- $_ := set $told "ALMAGEST_ARCHIVE_DIRECTORY" "/var/lib/almagest/archives" -}}
{{- end -}}
{{- if eq $root.Values.tracing.source "bundled" -}}
{{- $_ := set $told "OTEL_EXPORTER_OTLP_ENDPOINT" (printf "http://%s:4317" (include "almagest.host" (dict "root" $root "service" "jaeger"))) -}}
{{- else if eq $root.Values.tracing.source "external" -}}
{{- $_ := set $told "OTEL_EXPORTER_OTLP_ENDPOINT" (required "tracing.external.endpoint is needed" $root.Values.tracing.external.endpoint) -}}
{{- end -}}
{{- range $setting, $value := mergeOverwrite (deepCopy $root.Values.settings) $component.settings -}}
{{- $_ := set $told $setting (ternary $value (toJson $value) (kindIs "string" $value)) -}}
{{- end -}}
{{- $told | toJson -}}
{{- end -}}

{{/* The environment that is secret, as entries of `env`. Takes a dict: root, name, owner (whether as the owner). */}}
{{- define "almagest.secretEnvironment" -}}
{{- $component := include "almagest.component" . | fromJson -}}
{{- $root := .root -}}
{{- if and $component.database (eq $root.Values.postgres.source "external") }}
- name: ALMAGEST_DATABASE_URLS
  valueFrom:
    secretKeyRef:
      {{- if .owner }}
      name: {{ required "postgres.external.ownerSecret is needed" $root.Values.postgres.external.ownerSecret }}
      key: {{ .name }}
      {{- else }}
      name: {{ required (printf "postgres.external.secrets.%s is needed" .name) (index $root.Values.postgres.external.secrets .name) }}
      key: database-urls
      {{- end }}
{{- end }}
{{- if $component.redis }}
- name: ALMAGEST_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "almagest.redisSecret" $root }}
      key: {{ .name }}-url
{{- end }}
{{- end -}}

{{/* The volumes of a process. Takes a dict: root, name, workload (whose identity). */}}
{{- define "almagest.volumes" -}}
{{- $root := .root -}}
{{- $fullname := include "almagest.fullname" $root -}}
- {{- include "almagest.identityVolume" . | nindent 2 }}
- name: tmp
  emptyDir: { sizeLimit: 256Mi }
- name: deny-list
  configMap: { name: {{ $fullname }}-deny-list }
{{- if eq .name "gateway" }}
- name: web
  secret: { secretName: {{ include "almagest.webSecret" $root }}, defaultMode: 0440 }
{{- end }}
{{- if eq .name "auth" }}
{{- $key := $root.Values.secrets.keyEncryptionKey }}
- name: keys
  secret:
    secretName: {{ include "almagest.keySecret" $root }}
    defaultMode: 0440
    items:
      - { key: {{ $key.key }}, path: key-encryption-key }
      {{- range $key.olderKeys }}
      - { key: {{ . }}, path: older/{{ . }} }
      {{- end }}
{{- if and $key.kms.enabled (not .owner) }}
- name: kms
  emptyDir: { sizeLimit: 1Mi }
{{- end }}
{{- end }}
{{- if and (eq .name "event-store") $root.Values.archives.enabled }}
- name: archives
  persistentVolumeClaim: { claimName: {{ $root.Values.archives.existingClaim | default (printf "%s-archives" $fullname) }} }
{{- end }}
{{- if eq $root.Values.postgres.source "external" }}
{{- with $root.Values.postgres.external.caConfigMap }}
- name: postgres-ca
  configMap: { name: {{ . }} }
{{- end }}
{{- end }}
{{- if eq $root.Values.redis.source "external" }}
{{- with $root.Values.redis.external.caConfigMap }}
- name: redis-ca
  configMap: { name: {{ . }} }
{{- end }}
{{- end }}
{{- end -}}

{{/* Where those are mounted. Takes the same. */}}
{{- define "almagest.volumeMounts" -}}
{{- $root := .root -}}
- { name: identity, mountPath: /var/run/almagest/identity, readOnly: true }
- { name: tmp, mountPath: /tmp }
- { name: deny-list, mountPath: /etc/almagest/deny-list, readOnly: true }
{{- if eq .name "gateway" }}
- { name: web, mountPath: /var/run/almagest/web, readOnly: true }
{{- end }}
{{- if eq .name "auth" }}
- { name: keys, mountPath: /etc/almagest/keys, readOnly: true }
{{- if and $root.Values.secrets.keyEncryptionKey.kms.enabled (not .owner) }}
- { name: kms, mountPath: /run/kms, readOnly: true }
{{- end }}
{{- end }}
{{- if and (eq .name "event-store") $root.Values.archives.enabled }}
- { name: archives, mountPath: /var/lib/almagest/archives }
{{- end }}
{{- if and (eq $root.Values.postgres.source "external") $root.Values.postgres.external.caConfigMap }}
- { name: postgres-ca, mountPath: /etc/almagest/postgres, readOnly: true }
{{- end }}
{{- if and (eq $root.Values.redis.source "external") $root.Values.redis.external.caConfigMap }}
- { name: redis-ca, mountPath: /etc/almagest/redis, readOnly: true }
{{- end }}
{{- end -}}
