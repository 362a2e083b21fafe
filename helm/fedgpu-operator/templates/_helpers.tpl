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

{{/* "true" if replicas elect a leader among themselves. */}}
{{- define "fedgpu.several" -}}
{{- gt (int64 .Values.replicas) 1 -}}
{{- end -}}

{{/* The Lease of their election, as bootstrap/election.py names it. */}}
{{- define "fedgpu.leaderLease" -}}
fedgpu-leader
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
{{- with .Values.ledger.urlSecret }}
  {{- if .name }}
  {{- include "fedgpu.fromSecret" . | nindent 2 }}
  {{- else }}
  value: /var/lib/fedgpu/ledger.db
  {{- end }}
{{- end }}
- name: FEDGPU_LEADER_ELECTION
  value: {{ include "fedgpu.several" . | quote }}
- name: FEDGPU_ACCEPTANCE
  value: {{ $settings.acceptance | quote }}
- name: FEDGPU_ACCEPTANCE_ENFORCED
  value: {{ or (and .Values.rbac.create .Values.rbac.confineByAdmission) .Values.rbac.acceptanceEnforcedElsewhere | quote }}
- name: FEDGPU_DEFAULT_DENY
  value: {{ $settings.defaultDeny | quote }}
- name: FEDGPU_LOCATION_AUDIT
  value: {{ and .Values.rbac.create .Values.rbac.confineByAdmission | quote }}
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
- name: FEDGPU_FUNDING_WARN_SECONDS
  value: {{ $settings.fundingWarnSeconds | quote }}
- name: FEDGPU_FUNDING_CHECKPOINT_SECONDS
  value: {{ $settings.fundingCheckpointSeconds | quote }}
- name: FEDGPU_MARKET_SECONDS
  value: {{ $settings.marketSeconds | quote }}
- name: FEDGPU_WORKLOAD_RETENTION_SECONDS
  value: {{ $settings.workloadRetentionSeconds | quote }}
- name: FEDGPU_REBALANCE_MIN_SAVING_PERCENT
  value: {{ $settings.rebalanceMinSavingPercent | int64 | quote }}
- name: FEDGPU_REBALANCE_MIN_SAVING_USD
  value: {{ $settings.rebalanceMinSavingUSD | quote }}
- name: FEDGPU_REBALANCE_RESIDENCE_SECONDS
  value: {{ $settings.rebalanceResidenceSeconds | quote }}
- name: FEDGPU_REBALANCE_MOVES_PER_PASS
  value: {{ $settings.rebalanceMovesPerPass | int64 | quote }}
{{- with .Values.vantages }}
- name: FEDGPU_VANTAGES
  value: {{ toJson . | quote }}
{{- end }}
{{- with .Values.plugins }}
- name: FEDGPU_PLUGINS
  value: {{ join "," . | quote }}
{{- end }}
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
{{- if .Values.chain.enabled }}
{{ include "fedgpu.chainEnv" .Values.chain }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The part of the environment that settles on chain; its context is .Values.chain. */}}
{{- define "fedgpu.chainEnv" -}}
- name: FEDGPU_CHAIN_RPC_URL
{{- if .rpcURLSecret.name }}
  {{- include "fedgpu.fromSecret" .rpcURLSecret | nindent 2 }}
{{- else }}
  value: {{ .rpcURL | quote }}
{{- end }}
{{- with .rpcQuorum | int64 }}
- name: FEDGPU_CHAIN_RPC_QUORUM
  value: {{ . | quote }}
{{- end }}
- name: FEDGPU_CHAIN_ID
  value: {{ .chainID | int64 | quote }}
- name: FEDGPU_ESCROW_ADDRESS
  value: {{ .escrowAddress | quote }}
{{- with .firstBlock | int64 }}
- name: FEDGPU_FIRST_BLOCK
  value: {{ . | quote }}
{{- end }}
{{- with .batchAddress }}
- name: FEDGPU_BATCH_ADDRESS
  value: {{ . | quote }}
{{- end }}
{{- if or .caConfigMap.name .caSecret.name }}
- name: FEDGPU_CHAIN_CA_FILE
  value: /etc/fedgpu/ca/ca.crt
{{- end }}
- name: FEDGPU_SETTLER_WARN_SECONDS
  value: {{ .settler.warnSeconds | quote }}
{{- with .settler }}
{{- if .keySecret.name }}
- name: FEDGPU_SETTLER_KEY_FILE
  value: /etc/fedgpu/settler/key
{{- else if .keystoreSecret.name }}
- name: FEDGPU_SETTLER_KEYSTORE
  value: /etc/fedgpu/settler/keystore
- name: FEDGPU_SETTLER_PASSWORD_FILE
  value: /etc/fedgpu/settler/password
{{- else }}
- name: FEDGPU_SETTLER_SIGNER_URL
  value: {{ .web3signer.url | quote }}
- name: FEDGPU_SETTLER_ADDRESS
  value: {{ .web3signer.address | quote }}
{{- end }}
{{- end }}
{{- if .meterKeySecret.name }}
- name: FEDGPU_METER_KEY_FILE
  value: /etc/fedgpu/meter/key
{{- end }}
- name: FEDGPU_EPOCH_SECONDS
  value: {{ .epochSeconds | quote }}
- name: FEDGPU_MAX_EPOCH_SECONDS
  value: {{ .maxEpochSeconds | quote }}
- name: FEDGPU_MIN_PAYOUT_USD
  value: {{ .minPayoutUSD | quote }}
{{- with .nativeUSD }}
- name: FEDGPU_NATIVE_USD
  value: {{ . | quote }}
{{- end }}
- name: FEDGPU_MAX_COST_SHARE
  value: {{ .maxCostShare | quote }}
- name: FEDGPU_FEE_CAP_GWEI
  value: {{ .feeCapGwei | quote }}
- name: FEDGPU_AUTO_CLAIM
  value: {{ .autoClaim | quote }}
- name: FEDGPU_EPOCH_RETENTION_SECONDS
  value: {{ .epochRetentionSeconds | quote }}
{{- end -}}

{{- define "fedgpu.fromSecret" -}}
valueFrom:
  secretKeyRef:
    name: {{ .name }}
    key: {{ .key }}
{{- end -}}

{{/* The chain's keys and authorities as files: `mounts` and `volumes` belong together, entry by entry. */}}
{{- define "fedgpu.keyMounts" -}}
{{- if or .settler.keySecret.name .settler.keystoreSecret.name }}
- name: settler-key
  mountPath: /etc/fedgpu/settler
  readOnly: true
{{- end }}
{{- if .meterKeySecret.name }}
- name: meter-key
  mountPath: /etc/fedgpu/meter
  readOnly: true
{{- end }}
{{- if or .caConfigMap.name .caSecret.name }}
- name: chain-ca
  mountPath: /etc/fedgpu/ca
  readOnly: true
{{- end }}
{{- end -}}

{{- define "fedgpu.keyVolumes" -}}
{{- with .settler.keySecret }}
{{- if .name }}
- name: settler-key
  secret:
    secretName: {{ .name }}
    defaultMode: 0440
    items:
      - key: {{ .key }}
        path: key
{{- end }}
{{- end }}
{{- with .settler.keystoreSecret }}
{{- if .name }}
- name: settler-key
  secret:
    secretName: {{ .name }}
    defaultMode: 0440
    items:
      - key: {{ .key }}
        path: keystore
      - key: {{ .passwordKey }}
        path: password
{{- end }}
{{- end }}
{{- with .meterKeySecret }}
{{- if .name }}
- name: meter-key
  secret:
    secretName: {{ .name }}
    defaultMode: 0440
    items:
      - key: {{ .key }}
        path: key
{{- end }}
{{- end }}
{{- if or .caConfigMap.name .caSecret.name }}
- name: chain-ca
  {{- if .caConfigMap.name }}
  configMap:
    name: {{ .caConfigMap.name }}
  {{- else }}
  secret:
    secretName: {{ .caSecret.name }}
  {{- end }}
    defaultMode: 0440
    items:
      - key: {{ ternary .caConfigMap.key .caSecret.key (not (empty .caConfigMap.name)) }}
        path: ca.crt
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
{{- if gt (float64 .Values.settings.fundingCheckpointSeconds) (float64 .Values.settings.fundingWarnSeconds) -}}
{{- fail "settings.fundingCheckpointSeconds is above settings.fundingWarnSeconds: the warning comes first" -}}
{{- end -}}
{{- if and .Values.ledger.urlSecret.name .Values.persistence.existingClaim -}}
{{- fail "ledger.urlSecret.name and persistence.existingClaim: the ledger lives in one place, so give one of them" -}}
{{- end -}}
{{- if and (gt (int64 .Values.replicas) 1) (not .Values.ledger.urlSecret.name) -}}
{{- fail (printf "replicas is %d and the ledger is an SQLite file, which has one writer; set ledger.urlSecret.name to a PostgreSQL database" (int64 .Values.replicas)) -}}
{{- end -}}
{{- if .Values.chain.enabled -}}
{{- include "fedgpu.refuseChain" .Values.chain -}}
{{- include "fedgpu.refuseSigners" .Values.chain -}}
{{- end -}}
{{- end -}}

{{- define "fedgpu.refuseChain" -}}
{{- if eq (empty .rpcURL) (empty .rpcURLSecret.name) -}}
{{- fail "chain: needs exactly one of rpcURL and rpcURLSecret.name" -}}
{{- end -}}
{{- if and .caConfigMap.name .caSecret.name -}}
{{- fail "chain: caConfigMap.name and caSecret.name are both given; the authorities are in one place" -}}
{{- end -}}
{{- $endpoints := len (splitList "," .rpcURL) -}}
{{- $quorum := int64 .rpcQuorum -}}
{{- if and .rpcURL $quorum (or (gt $quorum (int64 $endpoints)) (le (mul 2 $quorum) (int64 $endpoints))) -}}
{{- fail (printf "chain.rpcQuorum: %d of the %d endpoints in chain.rpcURL is not more than half of them and at most all" $quorum $endpoints) -}}
{{- end -}}
{{- if lt (float64 .maxEpochSeconds) (float64 .epochSeconds) -}}
{{- fail "chain.maxEpochSeconds is below chain.epochSeconds: it is the longest that an epoch may wait" -}}
{{- end -}}
{{- end -}}

{{- define "fedgpu.refuseSigners" -}}
{{- $ways := list -}}
{{- if .settler.keySecret.name -}}{{- $ways = append $ways "keySecret.name" -}}{{- end -}}
{{- if .settler.keystoreSecret.name -}}{{- $ways = append $ways "keystoreSecret.name" -}}{{- end -}}
{{- if or .settler.web3signer.url .settler.web3signer.address -}}{{- $ways = append $ways "web3signer" -}}{{- end -}}
{{- if not $ways -}}
{{- fail "chain.settler: needs one of keySecret.name, keystoreSecret.name and web3signer; none is given" -}}
{{- end -}}
{{- if gt (len $ways) 1 -}}
{{- fail (printf "chain.settler: needs one of keySecret.name, keystoreSecret.name and web3signer; given are %s" (join " and " $ways)) -}}
{{- end -}}
{{- if ne (empty .settler.web3signer.url) (empty .settler.web3signer.address) -}}
{{- fail "chain.settler.web3signer: needs url and address, the account that the signer signs for" -}}
{{- end -}}
{{- with .settler.keySecret -}}
{{- if and .name (eq .name $.meterKeySecret.name) (eq .key $.meterKeySecret.key) -}}
{{- fail "chain.meterKeySecret is the settler's own key: receipts are signed by another, or one thief has both" -}}
{{- end -}}
{{- end -}}
{{- end -}}
