{{/* At most 54 characters, as in the schema: with the longest suffix, -metrics, it is the name of a Service still. */}}
{{- define "warmfleet.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- printf "%s-operator" (.Release.Name | trunc 45 | trimSuffix "-") -}}
{{- else -}}
{{- printf "%s-%s-operator" (.Release.Name | trunc 35 | trimSuffix "-") .Chart.Name -}}
{{- end -}}
{{- end -}}

{{- define "warmfleet.selector" -}}
app.kubernetes.io/name: warmfleet
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "warmfleet.labels" -}}
{{- with .Values.commonLabels }}
{{- toYaml . }}
{{ end -}}
{{ include "warmfleet.selector" . }}
app.kubernetes.io/part-of: warmfleet
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The labels of an object that may have more of them: the same key in both is the object's. */}}
{{- define "warmfleet.labelled" -}}
{{- merge (deepCopy .labels) (include "warmfleet.labels" .root | fromYaml) | toYaml -}}
{{- end -}}

{{- define "warmfleet.account" -}}
{{- if .Values.serviceAccount.name -}}
{{- .Values.serviceAccount.name -}}
{{- else if .Values.serviceAccount.create -}}
{{- include "warmfleet.fullname" . -}}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{- define "warmfleet.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Name of objects without namespace: two releases of the same name may live in two namespaces. */}}
{{- define "warmfleet.clustername" -}}
{{- if .Values.namespaced -}}
{{- printf "%s-%s" (include "warmfleet.fullname" .) .Release.Namespace -}}
{{- else -}}
{{- include "warmfleet.fullname" . -}}
{{- end -}}
{{- end -}}

{{/* RBAC rules of one scope of files/rights.yaml, or of the file given; named rules are limited to the name given. */}}
{{- define "warmfleet.rules" -}}
{{- $name := .name | default (include "warmfleet.fullname" .root) -}}
{{- range index (.root.Files.Get (.file | default "files/rights.yaml") | fromYaml) .scope }}
- apiGroups: {{ .apiGroups | toJson }}
  resources: {{ .resources | toJson }}
  {{- if .named }}
  resourceNames: {{ list $name | toJson }}
  {{- else if .resourceNames }}
  resourceNames: {{ .resourceNames | toJson }}
  {{- end }}
  verbs: {{ .verbs | toJson }}
{{- end }}
{{- end -}}

{{- define "warmfleet.subject" -}}
- kind: ServiceAccount
  name: {{ include "warmfleet.account" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}

{{- define "warmfleet.forecaster.fullname" -}}
{{- printf "%s-forecaster" (include "warmfleet.fullname" . | trimSuffix "-operator" | trunc 41 | trimSuffix "-") -}}
{{- end -}}

{{- define "warmfleet.forecaster.clustername" -}}
{{- if .Values.namespaced -}}
{{- printf "%s-%s" (include "warmfleet.forecaster.fullname" .) .Release.Namespace -}}
{{- else -}}
{{- include "warmfleet.forecaster.fullname" . -}}
{{- end -}}
{{- end -}}

{{- define "warmfleet.forecaster.selector" -}}
app.kubernetes.io/name: warmfleet
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: forecaster
{{- end -}}

{{- define "warmfleet.forecaster.labels" -}}
{{- with .Values.commonLabels }}
{{- toYaml . }}
{{ end -}}
{{ include "warmfleet.forecaster.selector" . }}
app.kubernetes.io/part-of: warmfleet
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "warmfleet.forecaster.image" -}}
{{- with .Values.forecaster.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A PodMonitor's endpoint at the named port. */}}
{{- define "warmfleet.endpoint" -}}
- port: {{ .port }}
  path: /metrics
  {{- if and .token .root.Values.metrics.authentication }}
  authorization:
    credentials:
      name: warmfleet-metrics
      key: token
  {{- end }}
  {{- if .relabel }}
  relabelings:
    - sourceLabels: [__meta_kubernetes_pod_label_warmfleet_dev_deployment]
      targetLabel: deployment
    - sourceLabels: [__meta_kubernetes_pod_label_warmfleet_dev_variant]
      targetLabel: variant
  {{- else }}
  # `namespace` and `deployment` are those of the LLMDeployment told of. A fleet's own pods may not say so themselves.
  honorLabels: true
  {{- end }}
  interval: {{ .root.Values.metrics.podMonitor.interval }}
  scrapeTimeout: {{ .root.Values.metrics.podMonitor.scrapeTimeout }}
{{- end -}}

{{/* Which namespaces hold fleets. */}}
{{- define "warmfleet.fleetspaces" -}}
{{- if .Values.namespaced -}}
matchNames: [{{ .Release.Namespace }}]
{{- else -}}
any: true
{{- end -}}
{{- end -}}

{{/* What an operator watches: a namespace, or * for all. */}}
{{- define "warmfleet.watches" -}}
{{- ternary .Release.Namespace "*" .Values.namespaced -}}
{{- end -}}

{{/*
Fails when another release watches what this one would: two operators would undo each other's work. Helm asks the
cluster; where it may not, as in `helm template`, nothing is found.
*/}}
{{- define "warmfleet.alone" -}}
{{- $own := include "warmfleet.watches" . -}}
{{- $ask := lookup "apps/v1" "Deployment" "" "" -}}
{{- range ($ask.items | default list) -}}
{{- $labels := .metadata.labels | default dict -}}
{{- $watches := index (.metadata.annotations | default dict) "warmfleet.dev/watches" -}}
{{- if and $watches (eq (index $labels "app.kubernetes.io/name" | default "") "warmfleet") -}}
{{- $release := index $labels "app.kubernetes.io/instance" -}}
{{- $same := and (eq $release $.Release.Name) (eq .metadata.namespace $.Release.Namespace) -}}
{{- if and (not $same) (or (eq $own "*") (eq $watches "*") (eq $own $watches)) -}}
{{- $what := ternary "the whole cluster" (ternary "that namespace" "what this one would" (eq $watches .metadata.namespace)) (eq $watches "*") -}}
{{- fail (printf "release %s in namespace %s already watches %s: set namespaced=true in each release, and give each a namespace of its own" $release .metadata.namespace $what) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
