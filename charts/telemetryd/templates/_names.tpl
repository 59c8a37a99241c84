{{- define "telemetryd.name" -}}
{{- default .Chart.Name .Values.nameOverride -}}
{{- end -}}

{{- /* A release may have dots in its name and begin with a digit, a Service may not. */ -}}
{{- define "telemetryd.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := include "telemetryd.name" . -}}
{{- $release := .Release.Name | replace "." "-" -}}
{{- if regexMatch "^[0-9]" $release -}}
{{- printf "%s-%s" $name $release | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name $release -}}
{{- $release -}}
{{- else -}}
{{- printf "%s-%s" $release $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* For objects without a namespace, and for those in a namespace of others. Neither part has a dot, so no
two releases share it. */ -}}
{{- define "telemetryd.clusterName" -}}
{{- printf "%s.%s" (include "telemetryd.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "telemetryd.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "telemetryd.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "telemetryd.selector" -}}
app.kubernetes.io/name: {{ include "telemetryd.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "telemetryd.labels" -}}
{{ include "telemetryd.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- include "telemetryd.moreLabels" (dict "of" "commonLabels" "labels" .Values.commonLabels) }}
{{- end -}}

{{- /* Labels of the values, but for those that the chart sets: selectors would miss their pods. */ -}}
{{- define "telemetryd.moreLabels" -}}
{{- $labels := .labels | default dict -}}
{{- range $name := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "helm.sh/chart" -}}
{{- if hasKey $labels $name -}}
{{- fail (printf "%s: the chart sets %s: leave it out" $.of $name) -}}
{{- end -}}
{{- end -}}
{{- with .labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "telemetryd.image" -}}
{{- $global := .Values.global | default dict -}}
{{- $cattle := $global.cattle | default dict -}}
{{- $registry := .Values.image.registry | default $cattle.systemDefaultRegistry -}}
{{- $name := .Values.image.repository -}}
{{- if $registry -}}
{{- $name = printf "%s/%s" (trimSuffix "/" $registry) $name -}}
{{- end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $name .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- /* As Rancher's charts have them. */ -}}
{{- define "telemetryd.nodeSelector" -}}
kubernetes.io/os: linux
{{- with .Values.nodeSelector }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "telemetryd.tolerations" -}}
- key: cattle.io/os
  operator: Equal
  value: linux
  effect: NoSchedule
{{- with .Values.tolerations }}
{{ toYaml . }}
{{- end }}
{{- end -}}
