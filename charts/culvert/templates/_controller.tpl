{{/* Names the controller's Deployment, Service, ServiceAccount and roles alike. */}}
{{- define "culvert.controller" -}}
{{ include "culvert.fullname" . }}-controller
{{- end -}}

{{/*
Source of pods' identities. Of the cluster's own versions nothing follows: a node may be older than its API server, and its kubelet would
never start a pod with such a volume.
*/}}
{{- define "culvert.identity" -}}
{{- if and (ne .Values.identity.mode "stream") (not .Values.controller.enabled) }}
{{- fail (printf "identity.mode %s needs the controller, which tells sidecars what to trust: set controller.enabled" .Values.identity.mode) }}
{{- end }}
{{- .Values.identity.mode -}}
{{- end -}}

{{/* The address by which sidecars dial it, and whose name its certificate has; empty where there is none. */}}
{{- define "culvert.controller.url" -}}
{{- if .Values.controller.enabled }}https://{{ include "culvert.controller" . }}.{{ .Release.Namespace }}.svc:15012{{ end -}}
{{- end -}}
