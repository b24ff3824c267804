{{- define "listen-queue-exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "listen-queue-exporter.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 58 | trimSuffix "-" }}
{{- else }}
{{- $name := include "listen-queue-exporter.name" . }}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 58 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/*
The labels of an object, for a list: the chart, and the labels of its kind. The chart's own labels cannot be replaced, because others select by them.
*/}}
{{- define "listen-queue-exporter.labels" -}}
{{- $special := index . 1 | default dict }}
{{- with index . 0 }}
{{- $chart := dict
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/name" (include "listen-queue-exporter.name" .)
  "app.kubernetes.io/instance" .Release.Name
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/managed-by" .Release.Service }}
{{- toYaml (merge $chart $special (.Values.commonLabels | default dict)) }}
{{- end }}
{{- end }}

{{- define "listen-queue-exporter.nodeLabels" -}}
app.kubernetes.io/name: {{ include "listen-queue-exporter.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: node
{{- end }}

{{- define "listen-queue-exporter.serviceAccount" -}}
{{- if .Values.serviceAccount.name }}
{{- .Values.serviceAccount.name }}
{{- else if .Values.serviceAccount.create }}
{{- include "listen-queue-exporter.fullname" . }}
{{- else -}}
default
{{- end }}
{{- end }}

{{- define "listen-queue-exporter.image" -}}
{{- .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "listen-queue-exporter.livenessProbe" -}}
httpGet:
  path: /-/healthy
  port: lq-metrics
periodSeconds: 10
timeoutSeconds: 5
{{- end }}

{{/*
The container for your own chart, as an item of initContainers. The values are those that your chart gives to this one.
*/}}
{{- define "listen-queue-exporter.sidecar" -}}
{{- /* A dependency may have an alias as its name. */}}
{{- $home := "https://github.com/listen-queue-exporter/listen-queue-exporter" }}
{{- $chart := ternary . dict (eq .Chart.Home $home) }}
{{- range .Subcharts }}
{{- if eq .Chart.Home $home }}
{{- $chart = . }}
{{- end }}
{{- end }}
{{- if not $chart }}
{{- fail (printf "listen-queue-exporter.sidecar: the chart %s does not have listen-queue-exporter as a dependency of its own" .Chart.Name) }}
{{- end }}
{{- with $chart -}}
- name: listen-queue-exporter
  {{- if .Values.sidecar.native }}
  restartPolicy: Always
  {{- end }}
  image: {{ include "listen-queue-exporter.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- with .Values.sidecar.extraArgs }}
  args:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - name: lq-metrics
      containerPort: 10128
  livenessProbe:
    {{- include "listen-queue-exporter.livenessProbe" . | nindent 4 }}
  resources:
    {{- toYaml .Values.sidecar.resources | nindent 4 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    readOnlyRootFilesystem: true
    allowPrivilegeEscalation: false
    capabilities:
      drop: [ALL]
    seccompProfile:
      type: RuntimeDefault
  {{- with .Values.sidecar.volumeMounts }}
  volumeMounts:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{/*
The label by which Prometheus finds a pod with the sidecar.
*/}}
{{- define "listen-queue-exporter.sidecarLabels" -}}
listen-queue-exporter/scrape: "true"
{{- end }}

{{/*
The rules, with the values inserted. A selector is always the last in its braces. The operator names a job after its PodMonitor.
*/}}
{{- define "listen-queue-exporter.rules" -}}
{{- $values := .Values.prometheusRule }}
{{- $text := .Files.Get "files/rules.yaml" }}
{{- if $values.selector }}
{{- $text = replace "@selector@" $values.selector $text }}
{{- else }}
{{- $text = $text | replace "{@selector@}" "" | replace ",@selector@}" "}" }}
{{- end }}
{{- $name := include "listen-queue-exporter.fullname" . }}
{{- $jobs := ternary "listen-queue-exporter" (printf "(listen-queue-exporter|%s)" $name) (contains "listen-queue-exporter" $name) }}
{{- $text = replace "@jobs@" (printf ".*%s.*" $jobs) $text }}
{{- range $values := list $values.thresholds $values.severities (dict "runbookPrefix" $values.runbookPrefix) }}
{{- range $name, $value := $values }}
{{- $text = replace (printf "@%s@" $name) (toString $value) $text }}
{{- end }}
{{- end }}
{{- $text }}
{{- end }}
