{{/* Names the controller's Deployment, Service, ServiceAccount and roles alike. */}}
{{- define "culvert.controller" -}}
{{ include "culvert.fullname" . }}-controller
{{- end -}}

{{/* The address by which sidecars dial it, and whose name its certificate has; empty where there is none. */}}
{{- define "culvert.controller.url" -}}
{{- if .Values.controller.enabled }}https://{{ include "culvert.controller" . }}.{{ .Release.Namespace }}.svc:15012{{ end -}}
{{- end -}}
