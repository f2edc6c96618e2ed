{{/* Names. The release's name is in them once. */}}
{{- define "openmcp.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "openmcp.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "openmcp.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "openmcp.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "openmcp.injector" -}}{{ include "openmcp.fullname" . }}-injector{{- end -}}
{{- define "openmcp.approvals" -}}{{ include "openmcp.fullname" . }}-approvals{{- end -}}

{{/* Labels of an object: include "openmcp.labels" (list . "injector"). */}}
{{- define "openmcp.selector" -}}
app.kubernetes.io/name: {{ include "openmcp.name" (index . 0) }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "openmcp.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: openmcp
{{ include "openmcp.selector" . }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* labels and annotations of `metadata`: include "openmcp.meta" (list . "injector" $annotations). */}}
{{- define "openmcp.meta" -}}
{{- $root := index . 0 -}}
labels:
  {{- include "openmcp.labels" . | nindent 2 }}
{{- $more := dict -}}
{{- if gt (len .) 2 -}}{{- $more = index . 2 -}}{{- end -}}
{{- with merge (dict) $more $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "openmcp.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Namespaces that the injector never looks at. */}}
{{- define "openmcp.excludedNamespaces" -}}
{{- concat (list "kube-system" "kube-public" "kube-node-lease" .Release.Namespace) .Values.injector.excludedNamespaces | uniq | toYaml -}}
{{- end -}}

{{/* A quantity as a number: include "openmcp.quantity" "64Mi". */}}
{{- define "openmcp.quantity" -}}
{{- $units := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 -}}
{{- range $power, $unit := list "Ki" "Mi" "Gi" "Ti" "Pi" "Ei" -}}
{{- $_ := set $units $unit (index (list 1024.0 1048576.0 1073741824.0 1099511627776.0 1125899906842624.0 1152921504606846976.0) $power) -}}
{{- end -}}
{{- mulf (regexFind "^[0-9.]+" . | float64) (get $units (regexReplaceAll "^[0-9.]+" . "")) -}}
{{- end -}}

{{/* What our own pods have in common. */}}
{{- define "openmcp.podSecurityContext" -}}
runAsNonRoot: true
{{- if ne (toString .Values.sidecar.runAsUser) "none" }}
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "openmcp.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "openmcp.topologySpread" -}}
{{- $selector := include "openmcp.selector" . -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- $selector | nindent 6 }}
- maxSkew: 1
  topologyKey: topology.kubernetes.io/zone
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- $selector | nindent 6 }}
{{- end -}}
