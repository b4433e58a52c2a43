{{- define "mogile-operator.name" -}}
{{- if eq .Release.Name "mogile-operator" -}}mogile-operator{{- else -}}{{ printf "%s-mogile-operator" .Release.Name | trunc 50 | trimSuffix "-" }}{{- end -}}
{{- end }}

{{- define "mogile-operator.serviceAccount" -}}
{{- default (include "mogile-operator.name" .) .Values.serviceAccount.name -}}
{{- end }}

{{- define "mogile-operator.selector" -}}
app.kubernetes.io/name: mogile-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "mogile-operator.labels" -}}
{{ include "mogile-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "mogile-operator.tag" -}}
{{- default .Chart.AppVersion .Values.image.tag -}}
{{- end }}

{{- define "mogile-operator.image" -}}
{{- with .Values.image.registry }}{{ trimSuffix "/" . }}/{{ end }}mogile-operator:{{ include "mogile-operator.tag" . }}
{{- end }}
