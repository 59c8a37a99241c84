{{- /* The account and Secret whose token the PodMonitor shows; empty where it shows none of the chart's. */ -}}
{{- define "telemetryd.metricsToken" -}}
{{- $config := include "telemetryd.config" . | fromJson -}}
{{- $monitor := .Values.monitoring.podMonitor -}}
{{- if and $config.server.kubernetes_auth (not $monitor.authorization) (include "telemetryd.monitors" (dict "root" . "switch" $monitor.enabled)) -}}
{{- include "telemetryd.fullname" . -}}-metrics
{{- end -}}
{{- end -}}

{{- define "telemetryd.dashboardNamespace" -}}
{{- if .Values.monitoring.dashboard.namespace -}}
{{- .Values.monitoring.dashboard.namespace -}}
{{- else if lookup "v1" "Namespace" "" "cattle-dashboards" -}}
cattle-dashboards
{{- else -}}
{{- .Release.Namespace -}}
{{- end -}}
{{- end -}}
