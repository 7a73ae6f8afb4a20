{{/* webhook or policy. `-0` lets pre-releases in, and what vendors append: v1.36.1-gke.100. */}}
{{- define "culvert.injector.mode" -}}
{{- if ne .Values.injector.mode "auto" -}}
{{ .Values.injector.mode }}
{{- else if semverCompare ">=1.36.0-0" .Capabilities.KubeVersion.Version -}}
policy
{{- else -}}
webhook
{{- end -}}
{{- end -}}

{{/* "true" where a server injects. The policy mode has no server: templates/policy.yaml. */}}
{{- define "culvert.webhook" -}}
{{- if and .Values.injector.enabled (eq (include "culvert.injector.mode" .) "webhook") }}true{{ end -}}
{{- end -}}

{{/* "true" where the API server injects by itself. */}}
{{- define "culvert.policy" -}}
{{- if and .Values.injector.enabled (eq (include "culvert.injector.mode" .) "policy") }}true{{ end -}}
{{- end -}}

{{/* Names the injector's Deployment, Service, ServiceAccount, Secret, roles and webhook configuration alike. */}}
{{- define "culvert.injector" -}}
{{ include "culvert.fullname" . }}-injector
{{- end -}}

{{/* Names the account of `culvert-install doctor --cluster` and its roles; empty where there is none. */}}
{{- define "culvert.doctor" -}}
{{- if and .Values.injector.enabled .Values.injector.doctor.enabled }}{{ include "culvert.fullname" . }}-doctor{{ end -}}
{{- end -}}

{{/*
What the doctor's pod has beside its image and its command, as the JSON of `kubectl run --overrides`.
*/}}
{{- define "culvert.doctor.overrides" -}}
{{- $secrets := list -}}
{{- range .Values.image.pullSecrets }}{{ $secrets = append $secrets (dict "name" .) }}{{ end -}}
{{- $spec := dict "serviceAccountName" (include "culvert.doctor" .) "automountServiceAccountToken" true "enableServiceLinks" false "securityContext" (include "culvert.unprivileged" . | fromYaml) -}}
{{- if $secrets }}{{ $_ := set $spec "imagePullSecrets" $secrets }}{{ end -}}
{{- dict "spec" $spec | toJson -}}
{{- end -}}

{{/*
Namespaces that the injector never touches, as a JSON list. Kubernetes' own and the chart's start while no injector runs, and
where the plugin does nothing a sidecar would never become ready.
*/}}
{{- define "culvert.injector.excluded" -}}
{{- $system := list "kube-system" "kube-public" "kube-node-lease" .Release.Namespace -}}
{{- concat $system .Values.entry.excludeNamespaces .Values.injector.excludeNamespaces | uniq | toJson -}}
{{- end -}}

{{/* Shape of the sidecar: an init container that keeps running is on by default from Kubernetes 1.29 on. */}}
{{- define "culvert.injector.sidecar" -}}
{{- if ne .Values.injector.sidecar "auto" -}}
{{ .Values.injector.sidecar }}
{{- else if semverCompare ">=1.29.0-0" .Capabilities.KubeVersion.Version -}}
native
{{- else -}}
plain
{{- end -}}
{{- end -}}

{{/* "true" where Kuma's label counts. Where Kuma itself is, both injectors would put a sidecar into each of its pods. */}}
{{- define "culvert.injector.kuma" -}}
{{- $value := toString .Values.injector.kumaLabel -}}
{{- if or (eq $value "true") (and (eq $value "auto") (not (.Capabilities.APIVersions.Has "kuma.io/v1alpha1"))) }}true{{ end -}}
{{- end -}}

{{/* The nodes' defaults and locked keys in the form of a conflist, which `culvert-install inject --conflist` reads. */}}
{{- define "culvert.injector.conflist" -}}
{{- $plugin := dict "type" "culvert-cni" "redirect" .Values.entry.redirect "locked" .Values.entry.locked -}}
{{- dict "cniVersion" "1.0.0" "name" "culvert" "plugins" (list $plugin) | toPrettyJson -}}
{{- end -}}

{{/* A pod without any right on its node. OpenShift gives each namespace a range of uids and refuses others. */}}
{{- define "culvert.unprivileged" -}}
runAsNonRoot: true
{{- if ne .Values.platform "openshift" }}
runAsUser: 5678
runAsGroup: 5678
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "culvert.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/*
The entries of the webhook: { name, namespace, pod }, the last two as expressions of a label selector. Each pod meets one of
them at most. A pod's own label decides wherever it is, and a namespace's where the pod has none. `disabled` is never asked
about, so that it works while no server answers. Every other value is, wrong ones too: the server refuses them with the
allowed ones. A pod without a label in a namespace without a label meets none, so no failure of the server concerns it.
*/}}
{{- define "culvert.injector.entries" -}}
{{- $obeys := include "culvert.injector.kuma" . -}}
{{- $own := "culvert.dev/inject" -}}
{{- $kuma := "kuma.io/sidecar-injection" -}}
{{- $hasOwn := dict "key" $own "operator" "Exists" -}}
{{- $noOwn := dict "key" $own "operator" "DoesNotExist" -}}
{{- $ownOn := dict "key" $own "operator" "NotIn" "values" (list "disabled") -}}
{{- $hasKuma := dict "key" $kuma "operator" "Exists" -}}
{{- $noKuma := dict "key" $kuma "operator" "DoesNotExist" -}}
{{- $kumaOn := dict "key" $kuma "operator" "NotIn" "values" (list "disabled" "false") -}}
{{- $unlabelled := ternary (list $noOwn $noKuma) (list $noOwn) (ne $obeys "") -}}
{{- $entries := list
      (dict "name" "namespace.inject.culvert.dev" "namespace" (list $hasOwn $ownOn) "pod" $unlabelled)
      (dict "name" "pod.inject.culvert.dev" "namespace" list "pod" (list $hasOwn $ownOn)) -}}
{{- if $obeys -}}
{{- $entries = concat $entries (list
      (dict "name" "kuma-namespace.inject.culvert.dev" "namespace" (list $noOwn $hasKuma $kumaOn) "pod" $unlabelled)
      (dict "name" "kuma-pod.inject.culvert.dev" "namespace" list "pod" (list $noOwn $hasKuma $kumaOn))) -}}
{{- end -}}
{{- $entries | toJson -}}
{{- end -}}
