{{- /* What the configuration needs of the API server, as JSON: rancher, kubernetes, requests, reviews, and by
namespace the Secrets of exporters (own), of those that are off (marked), of SecretRequests (requested) and the
Lease. */ -}}
{{- define "telemetryd.rights" -}}
{{- $config := include "telemetryd.config" . | fromJson -}}
{{- $source := (default dict $config.kubernetes).source | default "auto" -}}
{{- $requests := default dict $config.secret_requests -}}
{{- $rancher := ne $source "kubernetes" -}}
{{- $serves := $rancher -}}
{{- if kindIs "bool" $requests.enabled -}}
{{- $serves = $requests.enabled -}}
{{- end -}}

{{- $namespaces := dict -}}
{{- range $exporter := $config.exporters -}}
{{- if eq $exporter.type "secret" -}}
{{- $kind := ternary "marked" "own" (eq (toString $exporter.enabled) "false") -}}
{{- $here := get $namespaces $exporter.namespace | default dict -}}
{{- $_ := set $here $kind (append (get $here $kind | default list) $exporter.secret | uniq) -}}
{{- $_ := set $namespaces $exporter.namespace $here -}}
{{- end -}}
{{- end -}}
{{- if and .Values.sccOperator.enabled $serves -}}
{{- range $target := .Values.sccOperator.targets -}}
{{- $here := get $namespaces $target.namespace | default dict -}}
{{- $_ := set $here "requested" (append (default list $here.requested) $target.secret | uniq) -}}
{{- $_ := set $here "own" (without (default list $here.own) $target.secret) -}}
{{- $_ := set $here "marked" (without (default list $here.marked) $target.secret) -}}
{{- $_ := set $namespaces $target.namespace $here -}}
{{- end -}}
{{- end -}}
{{- if $config.leader_election.enabled -}}
{{- $here := get $namespaces $config.leader_election.namespace | default dict -}}
{{- $_ := set $here "lease" $config.leader_election.name -}}
{{- $_ := set $namespaces $config.leader_election.namespace $here -}}
{{- end -}}

{{- toJson (dict
  "rancher" $rancher
  "kubernetes" (ne $source "rancher")
  "requests" $serves
  "deletes" (eq (toString $requests.cleanup) "delete")
  "registrations" .Values.sccOperator.enabled
  "reviews" (eq (toString $config.server.kubernetes_auth) "true")
  "namespaces" $namespaces
) -}}
{{- end -}}
