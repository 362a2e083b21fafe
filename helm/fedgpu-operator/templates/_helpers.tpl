{{/* Names and labels that several templates share. */}}

{{- define "fedgpu.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains .Release.Name $name -}}
{{- $name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "fedgpu.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "fedgpu.labels" -}}
{{ include "fedgpu.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: fedgpu
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "fedgpu.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "fedgpu.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Cluster-scoped names carry the namespace, so that two releases of one name do not collide. */}}
{{- define "fedgpu.clusterName" -}}
{{- printf "%s.%s" .Release.Namespace (include "fedgpu.fullname" .) -}}
{{- end -}}

{{- define "fedgpu.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The subject of every binding, and of the admission policy. */}}
{{- define "fedgpu.subjects" -}}
- kind: ServiceAccount
  name: {{ include "fedgpu.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}

{{/* One line per variable of docs/configuration.md. Whole numbers pass int64: Helm reads them as floats. */}}
{{- define "fedgpu.env" -}}
{{- $settings := .Values.settings -}}
- name: FEDGPU_NAMESPACE
  value: {{ .Release.Namespace | quote }}
- name: FEDGPU_LEDGER
  value: /var/lib/fedgpu/ledger.db
- name: FEDGPU_ACCEPTANCE
  value: {{ $settings.acceptance | quote }}
- name: FEDGPU_DEFAULT_DENY
  value: {{ $settings.defaultDeny | quote }}
- name: FEDGPU_RESYNC_SECONDS
  value: {{ $settings.resyncSeconds | quote }}
- name: FEDGPU_HEARTBEAT_TIMEOUT_SECONDS
  value: {{ $settings.heartbeatTimeoutSeconds | quote }}
- name: FEDGPU_COOLDOWN_SECONDS
  value: {{ $settings.cooldownSeconds | quote }}
- name: FEDGPU_REJECT_AFTER_SECONDS
  value: {{ $settings.rejectAfterSeconds | quote }}
- name: FEDGPU_USAGE_INTERVAL_SECONDS
  value: {{ $settings.usageIntervalSeconds | quote }}
- name: FEDGPU_INVENTORY_INTERVAL_SECONDS
  value: {{ $settings.inventoryIntervalSeconds | quote }}
- name: FEDGPU_BIND_ADDRESS
  value: 0.0.0.0
- name: FEDGPU_METRICS_PORT
  value: {{ .Values.metrics.port | int64 | quote }}
- name: FEDGPU_HEALTH_PORT
  value: {{ .Values.healthPort | int64 | quote }}
- name: FEDGPU_LOG_LEVEL
  value: {{ $settings.logLevel | quote }}
- name: FEDGPU_LOG_FORMAT
  value: {{ $settings.logFormat | quote }}
{{- with .Values.chain }}
{{- if .enabled }}
- name: FEDGPU_CHAIN_RPC_URL
  value: {{ .rpcURL | quote }}
- name: FEDGPU_CHAIN_ID
  value: {{ .chainID | int64 | quote }}
- name: FEDGPU_ESCROW_ADDRESS
  value: {{ .escrowAddress | quote }}
- name: FEDGPU_SETTLER_KEY_FILE
  value: /etc/fedgpu/settler/key
- name: FEDGPU_EPOCH_SECONDS
  value: {{ .epochSeconds | quote }}
- name: FEDGPU_AUTO_CLAIM
  value: {{ .autoClaim | quote }}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What a schema cannot say in words that help. */}}
{{- define "fedgpu.refuse" -}}
{{- range .Values.extraEnv -}}
{{- if hasPrefix "FEDGPU_" .name -}}
{{- fail (printf "extraEnv: %s is set by the chart; use the value beside it in docs/configuration.md" .name) -}}
{{- end -}}
{{- end -}}
{{- if eq (int64 .Values.healthPort) (int64 .Values.metrics.port) -}}
{{- fail (printf "healthPort and metrics.port are both %d; give each a port of its own" (int64 .Values.healthPort)) -}}
{{- end -}}
{{- end -}}
