{{/* Names do not depend on the release: there is one operator in a namespace. */}}
{{- define "kafscale.labels" -}}
app.kubernetes.io/name: kafscale-operator
app.kubernetes.io/part-of: kafscale
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "kafscale.operatorSelector" -}}
app.kubernetes.io/name: kafscale-operator
{{- end }}
