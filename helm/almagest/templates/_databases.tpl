{{/* Where databases are and who comes to them how. */}}

{{/* The databases of a stem, in shard order, as JSON. Takes a dict: root, stem. */}}
{{- define "almagest.databases" -}}
{{- $names := list -}}
{{- if eq .stem "jobs" -}}
{{- $names = list "jobs" -}}
{{- else -}}
{{- range $shard := until (index .root.Values.postgres.shards .stem | int) -}}
{{- $names = append $names (printf "%s_%d" $.stem $shard) -}}
{{- end -}}
{{- end -}}
{{- $names | toJson -}}
{{- end -}}

{{/* Every database, with its stem and the service that owns it, as a JSON list. Takes the root. */}}
{{- define "almagest.allDatabases" -}}
{{- $all := list -}}
{{- range $name, $component := .Values.components -}}
{{- if $component.database -}}
{{- range $database := include "almagest.databases" (dict "root" $ "stem" $component.database) | fromJsonArray -}}
{{- $all = append $all (dict "name" $database "stem" $component.database "service" $name "role" ($name | replace "-" "_")) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $all | toJson -}}
{{- end -}}

{{/* The part of a Service's name that says which database: events_0 is at `postgres-events-0`. Takes a database. */}}
{{- define "almagest.databaseService" -}}
postgres-{{ . | replace "_" "-" }}
{{- end -}}

{{/*
The DSNs of a service's databases for a role, as a JSON list. There is no password in them: the server lets a role in
who shows its certificate. Takes a dict: root, stem, role.
*/}}
{{- define "almagest.dsns" -}}
{{- $identity := "/var/run/almagest/identity" -}}
{{- $tls := printf "sslmode=verify-full&sslrootcert=%s/ca.crt&sslcert=%s/tls.crt&sslkey=%s/tls.key" $identity $identity $identity -}}
{{- $dsns := list -}}
{{- range $database := include "almagest.databases" . | fromJsonArray -}}
{{- $service := include "almagest.databaseService" $database -}}
{{- if eq $.root.Values.postgres.source "cloudnative-pg" -}}
{{- $service = printf "%s-rw" $service -}}
{{- end -}}
{{- $host := include "almagest.host" (dict "root" $.root "service" $service) -}}
{{- $dsns = append $dsns (printf "postgresql://%s@%s:5432/%s?%s" $.role $host $database $tls) -}}
{{- end -}}
{{/* Go writes & as an escape, which JSON reads as the same and people do not. */}}
{{- $dsns | toJson | replace "\\u0026" "&" -}}
{{- end -}}
