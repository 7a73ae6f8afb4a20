{{/* The names of all objects: the release's, with "culvert" in it. */}}
{{- define "culvert.fullname" -}}
{{- $name := ternary .Release.Name (printf "%s-culvert" .Release.Name) (contains "culvert" .Release.Name) -}}
{{- $name | trunc 48 | trimSuffix "-" -}}
{{- end -}}

{{- define "culvert.selector" -}}
app.kubernetes.io/name: culvert
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "culvert.labels" -}}
{{ include "culvert.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: culvert
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "culvert.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}:{{ $tag }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ $tag }}
{{- end -}}
{{- end -}}

{{/*
What of the node is mounted, below /host at the same path. `write` are folders that the agent changes, `read` those it only
looks into. A folder of conflists is mounted by its parent: a mount of the folder itself would go on showing the deleted one
after a neighbour has deleted it and made it anew. A socket is mounted by its folder for the same reason.
*/}}
{{- define "culvert.platforms" -}}
containerd:
  conf: /etc/cni
  bin: /opt/cni
  read: [/etc/containerd]
  socket: /run/containerd
crio:
  conf: /etc/cni
  bin: /opt/cni
  read: [/etc/crio]
  socket: /run/crio
k3s:
  conf: /var/lib/rancher/k3s/agent/etc/cni
  # data/cni since October 2024, before that data/current/bin, which leads elsewhere after each upgrade of k3s.
  bin: /var/lib/rancher/k3s/data
  read: [/var/lib/rancher/k3s/agent/etc/containerd]
  socket: /run/k3s/containerd
rke2:
  conf: /etc/cni
  bin: /opt/cni
  read: [/var/lib/rancher/rke2/agent/etc/containerd]
  socket: /run/k3s/containerd
k0s:
  conf: /etc/cni
  bin: /opt/cni
  read: [/etc/k0s]
  socket: /run/k0s
microk8s:
  # Conflists and the runtime's configuration. Not /var/snap/microk8s: the volumes of all pods are mounted in it.
  conf: /var/snap/microk8s/current/args
  bin: /var/snap/microk8s/current/opt/cni
  read: []
  socket: /var/snap/microk8s/common/run
gke:
  conf: /etc/cni
  # /opt is read-only there.
  bin: /home/kubernetes/bin
  read: [/etc/containerd]
  socket: /run/containerd
openshift:
  # Multus' own conflist, which CRI-O reads, is here.
  conf: /etc/kubernetes/cni
  bin: /var/lib/cni/bin
  read: [/etc/crio]
  socket: /run/crio
{{- end -}}

{{/* The node's folders as a list of { path, readOnly, socket }, without those that lie in one that is mounted anyway. */}}
{{- define "culvert.folders" -}}
{{- $preset := index (include "culvert.platforms" . | fromYaml) .Values.platform -}}
{{- $paths := .Values.paths -}}
{{- $conf := $preset.conf -}}
{{- if $paths.cniConfDir }}{{ $conf = dir $paths.cniConfDir }}{{ end -}}
{{- $socket := $preset.socket -}}
{{- if $paths.runtimeSocket }}{{ $socket = dir $paths.runtimeSocket }}{{ end -}}
{{- $read := $preset.read -}}
{{- if $paths.runtimeConfigDir }}{{ $read = list $paths.runtimeConfigDir }}{{ end -}}
{{- $all := list (dict "path" $conf) (dict "path" ($paths.cniBinDir | default $preset.bin)) (dict "path" "/run/culvert") -}}
{{- range $read }}{{ $all = append $all (dict "path" . "readOnly" true) }}{{ end -}}
{{- $all = append $all (dict "path" $socket "readOnly" true "socket" true) -}}
{{- $folders := list -}}
{{- range $n, $folder := $all -}}
  {{- $within := false -}}
  {{- range $m, $other := $all -}}
    {{- $covers := or (not $other.readOnly) $folder.readOnly -}}
    {{- if and $covers (hasPrefix (printf "%s/" $other.path) $folder.path) }}{{ $within = true }}{{ end -}}
    {{- if and (lt $m $n) (eq $other.path $folder.path) }}{{ $within = true }}{{ end -}}
  {{- end -}}
  {{- if not $within }}{{ $folders = append $folders $folder }}{{ end -}}
{{- end -}}
{{- $folders | toJson -}}
{{- end -}}

{{/* DirectoryOrCreate: a node that is just born may lack the folders of CNI, and a runtime may have no configuration. */}}
{{- define "culvert.volumes" -}}
{{- range $n, $folder := include "culvert.folders" . | fromJsonArray }}
- name: host-{{ $n }}
  hostPath:
    path: {{ $folder.path }}
    type: DirectoryOrCreate
{{- end }}
- name: proc
  hostPath:
    path: /proc
    type: Directory
{{- end -}}

{{- define "culvert.volumeMounts" -}}
{{- range $n, $folder := include "culvert.folders" . | fromJsonArray }}
- name: host-{{ $n }}
  mountPath: /host{{ $folder.path }}
  {{- if $folder.readOnly }}
  readOnly: true
  {{- end }}
  {{- if $folder.socket }}
  # The runtime mounts its containers' file systems in there: what it unmounts must not stay mounted here.
  mountPropagation: HostToContainer
  {{- end }}
{{- end }}
# The network namespaces of pods, and their sysctls: /proc/sys of a container is read-only.
- name: proc
  mountPath: /host/proc
{{- end -}}

{{/* The options that say where things are, for `agent` and `uninstall` alike. */}}
{{- define "culvert.paths" -}}
- --host-root=/host
{{- with .Values.paths.cniConfDir }}
- --cni-conf-dir={{ . }}
{{- end }}
{{- with .Values.paths.cniBinDir }}
- --cni-bin-dir={{ . }}
{{- end }}
{{- with .Values.paths.runtimeSocket }}
- --runtime-socket={{ . }}
{{- end }}
{{- end -}}

{{- define "culvert.seLinux" -}}
{{- with .Values.agent.seLinuxType | default (ternary "spc_t" "" (eq .Values.platform "openshift")) }}
seLinuxOptions:
  type: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* AppArmor by its field from Kubernetes 1.30 on, by its annotation before. */}}
{{- define "culvert.appArmorField" -}}
{{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version }}
appArmorProfile:
  type: {{ .Values.agent.appArmorProfile }}
{{- end }}
{{- end -}}

{{- define "culvert.appArmorAnnotation" -}}
{{- if semverCompare "<1.30.0-0" .root.Capabilities.KubeVersion.Version }}
container.apparmor.security.beta.kubernetes.io/{{ .container }}: {{ ternary "unconfined" "runtime/default" (eq .root.Values.agent.appArmorProfile "Unconfined") }}
{{- end }}
{{- end -}}

{{/*
The keys of the plugin's entry. This namespace is left alone too: where the runtime passes no annotations and onUnknown is
deny, the agent's own pod could not start without an agent that answers for it.
*/}}
{{- define "culvert.entry" -}}
{{- $entry := deepCopy .Values.entry -}}
{{- $_ := set $entry "excludeNamespaces" (append .Values.entry.excludeNamespaces .Release.Namespace | uniq) -}}
{{- $entry | toPrettyJson -}}
{{- end -}}

{{/*
What the agent's process may do. README.md, "Least privilege", says the same as a table; a test holds them equal.
*/}}
{{- define "culvert.securityContext" -}}
# The node's files of CNI and the runtime's socket are root's.
runAsUser: 0
runAsGroup: 0
privileged: false
# no_new_privs: nothing that it starts gets more than it has.
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
seccompProfile:
  type: RuntimeDefault
{{- include "culvert.appArmorField" . }}
{{- include "culvert.seLinux" . }}
capabilities:
  drop: [ALL]
  add:
    # To enter a pod's network namespace.
    - SYS_ADMIN
    # To read and write its rules and sysctls.
    - NET_ADMIN
    # To look at the namespaces of other users' processes in the node's /proc.
    - SYS_PTRACE
    # To read and write folders and files of CNI that belong to another user than root.
    - DAC_OVERRIDE
    # To give a conflist that was rewritten its owner and mode back.
    - CHOWN
    - FOWNER
{{- end -}}

{{/* Where pods of the chart may run, beside nodeSelector and tolerations. */}}
{{- define "culvert.affinity" -}}
{{- with .Values.agent.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "culvert.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* An object that lives as long as `helm uninstall` runs; one that an earlier, failed run left is replaced. */}}
{{- define "culvert.hook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}
