{{- /* The configuration in force, as JSON: `config` with what the chart knows better filled in. */ -}}
{{- define "telemetryd.config" -}}
{{- $config := deepCopy (.Values.config | default dict) -}}

{{- $server := $config.server | default dict -}}
{{- if not $server.listen -}}
{{- $_ := set $server "listen" ":10464" -}}
{{- end -}}
{{- if .Values.tls.secretName -}}
{{- if not $server.tls_cert_file -}}
{{- $_ := set $server "tls_cert_file" "/etc/telemetryd-tls/tls.crt" -}}
{{- $_ := set $server "tls_key_file" "/etc/telemetryd-tls/tls.key" -}}
{{- end -}}
{{- if and .Values.tls.clientCA (not $server.client_ca_file) -}}
{{- $_ := set $server "client_ca_file" "/etc/telemetryd-tls/ca.crt" -}}
{{- end -}}
{{- end -}}
{{- $_ := set $config "server" $server -}}

{{- $election := $config.leader_election | default dict -}}
{{- if kindIs "invalid" $election.enabled -}}
{{- $_ := set $election "enabled" (gt (int .Values.replicas) 1) -}}
{{- end -}}
{{- if $election.enabled -}}
{{- $_ := set $election "namespace" ($election.namespace | default .Release.Namespace) -}}
{{- $_ := set $election "name" ($election.name | default (include "telemetryd.fullname" .)) -}}
{{- end -}}
{{- $_ := set $config "leader_election" $election -}}

{{- $exporters := list -}}
{{- $taken := dict -}}
{{- range $name, $given := $config.exporters | default dict -}}
{{- if $given -}}
{{- $exporter := set $given "name" $name -}}
{{- if eq $exporter.type "secret" -}}
{{- $_ := set $exporter "namespace" ($exporter.namespace | default $.Release.Namespace) -}}
{{- $_ := set $exporter "secret" ($exporter.secret | default "rancher-scc-telemetry") -}}
{{- end -}}
{{- $place := "" -}}
{{- if eq $exporter.type "secret" -}}
{{- $place = printf "Secret %s/%s" $exporter.namespace $exporter.secret -}}
{{- else if $exporter.directory -}}
{{- $place = printf "directory %s" $exporter.directory -}}
{{- end -}}
{{- if and $place (hasKey $taken $place) -}}
{{- fail (printf "config.exporters.%s: %s is that of config.exporters.%s too: each needs its own" $name $place (get $taken $place)) -}}
{{- end -}}
{{- if $place -}}
{{- $_ := set $taken $place $name -}}
{{- end -}}
{{- include "telemetryd.checkPaths" (dict "root" $ "exporter" $exporter) -}}
{{- $exporters = append $exporters $exporter -}}
{{- end -}}
{{- end -}}
{{- $_ := set $config "exporters" $exporters -}}
{{- toJson $config -}}
{{- end -}}

{{- /* Refuses paths that no volume of the pod has: its root can't be written. */ -}}
{{- define "telemetryd.checkPaths" -}}
{{- $exporter := .exporter -}}
{{- $credentials := .root.Values.credentials | default dict -}}
{{- range $key, $value := $exporter -}}
{{- if hasPrefix "/etc/telemetryd-credentials/" (toString $value) -}}
{{- $entry := index (splitList "/" $value) 3 -}}
{{- if not (get $credentials $entry) -}}
{{- fail (printf "config.exporters.%s.%s: there is no credentials.%s" $exporter.name $key $entry) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $exporter.directory -}}
{{- $mounted := list -}}
{{- range append (.root.Values.extraVolumeMounts | default list) (dict "mountPath" (include "telemetryd.stateDir" .root)) -}}
{{- if hasPrefix (trimSuffix "/" .mountPath | printf "%s/") $exporter.directory -}}
{{- $mounted = append $mounted .mountPath -}}
{{- end -}}
{{- end -}}
{{- if not $mounted -}}
{{- fail (printf "config.exporters.%s.directory: %s is on no volume: choose one below %s, or add extraVolumes and extraVolumeMounts" $exporter.name $exporter.directory (include "telemetryd.stateDir" .root)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Drops nulls from a dictionary and lets whole numbers be whole: values of YAML are floats, and TOML
tells 500 from 500.0. Floats beyond 2^53 stay what they are. */ -}}
{{- define "telemetryd.tomlValues" -}}
{{- range $key, $value := . -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset $ $key -}}
{{- else if kindIs "map" $value -}}
{{- include "telemetryd.tomlValues" $value -}}
{{- else if kindIs "slice" $value -}}
{{- $items := list -}}
{{- range $item := $value -}}
{{- if kindIs "map" $item -}}
{{- include "telemetryd.tomlValues" $item -}}
{{- $items = append $items $item -}}
{{- else if and (kindIs "float64" $item) (eq (floor $item) $item) (le $item 9007199254740992.0) (ge $item -9007199254740992.0) -}}
{{- $items = append $items (int64 $item) -}}
{{- else if not (kindIs "invalid" $item) -}}
{{- $items = append $items $item -}}
{{- end -}}
{{- end -}}
{{- $_ := set $ $key $items -}}
{{- else if and (kindIs "float64" $value) (eq (floor $value) $value) (le $value 9007199254740992.0) (ge $value -9007199254740992.0) -}}
{{- $_ := set $ $key (int64 $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "telemetryd.toml" -}}
{{- $config := include "telemetryd.config" . | fromJson -}}
{{- include "telemetryd.tomlValues" $config -}}
{{- /* To YAML these end a line. */ -}}
{{- $toml := toToml $config -}}
{{- range $code, $character := dict "\\u0085" "\u0085" "\\u2028" "\u2028" "\\u2029" "\u2029" -}}
{{- $toml = $toml | replace $character $code -}}
{{- end -}}
{{- $toml -}}
{{- end -}}

{{- define "telemetryd.port" -}}
{{- $config := include "telemetryd.config" . | fromJson -}}
{{- regexFind "[0-9]+$" $config.server.listen -}}
{{- end -}}

{{- define "telemetryd.scheme" -}}
{{- $config := include "telemetryd.config" . | fromJson -}}
{{- ternary "HTTPS" "HTTP" (not (empty $config.server.tls_cert_file)) -}}
{{- end -}}

{{- /* How long a duration of the file is, such as 1m30s, in whole seconds rounded up. */ -}}
{{- define "telemetryd.seconds" -}}
{{- $seconds := ternary 1 0 (contains "ms" .) -}}
{{- $long := regexReplaceAll "[0-9]+ms" . "" -}}
{{- range $unit, $factor := dict "h" 3600 "m" 60 "s" 1 -}}
{{- $seconds = regexFind (printf "[0-9]+%s" $unit) $long | trimSuffix $unit | int | mul $factor | add $seconds -}}
{{- end -}}
{{- $seconds -}}
{{- end -}}

{{- define "telemetryd.stateDir" -}}
{{- .Values.config.state_dir | default "/var/lib/telemetryd" -}}
{{- end -}}

{{- /* "true" where one pod alone can mount the volume. */ -}}
{{- define "telemetryd.singleMount" -}}
{{- if and .Values.persistence.enabled (has .Values.persistence.accessMode (list "ReadWriteOnce" "ReadWriteOncePod")) -}}
true
{{- end -}}
{{- end -}}

{{- /* "true" where what is switched by auto, true or false is on. */ -}}
{{- define "telemetryd.monitors" -}}
{{- if eq (toString .switch) "auto" -}}
{{- if .root.Capabilities.APIVersions.Has "monitoring.coreos.com/v1" -}}
true
{{- end -}}
{{- else if eq (toString .switch) "true" -}}
true
{{- end -}}
{{- end -}}

{{- /* The port of a URL. */ -}}
{{- define "telemetryd.portOf" -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $port | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{- end -}}
