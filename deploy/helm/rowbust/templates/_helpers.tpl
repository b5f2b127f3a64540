{{- define "rowbust.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "rowbust.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "rowbust.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "rowbust.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "rowbust.selectorLabels" -}}
app.kubernetes.io/name: {{ include "rowbust.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "rowbust.labels" -}}
{{ include "rowbust.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "rowbust.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "rowbust.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "rowbust.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* rowbust.yaml: what was given, the admin server, and a place for what is kept. */}}
{{- define "rowbust.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $checkpoint := default dict $config.checkpoint -}}
{{- $shared := or $checkpoint.redis $checkpoint.kafka -}}
{{- if and (not $shared) (not .Values.existingClaim) -}}
{{- fail "the checkpoint must outlive a pod: config.checkpoint.redis or config.checkpoint.kafka, or, for one pod, existingClaim" -}}
{{- end -}}
{{- if and .Values.existingClaim (gt (int .Values.replicas) 1) -}}
{{- fail "existingClaim is for one pod: replicas above 1 need a checkpoint that they share, config.checkpoint.redis or config.checkpoint.kafka" -}}
{{- end -}}
{{- if and .Values.adminTokenKey (not .Values.existingSecret) -}}
{{- fail "adminTokenKey is a key of existingSecret, which is not set" -}}
{{- end -}}
{{- if not (or $shared $checkpoint.path) -}}
{{- $_ := set $config "checkpoint" (mergeOverwrite (dict "path" "/var/lib/rowbust/checkpoint") $checkpoint) -}}
{{- end -}}
{{- if not $config.retry -}}
{{- $_ := set $config "retry" (dict "disk" (dict "path" "/var/lib/rowbust/retry")) -}}
{{- end -}}
{{- $admin := dict "listen" "0.0.0.0:8321" -}}
{{- if .Values.adminTokenKey -}}
{{- $_ := set $admin "token_file" (printf "/run/secrets/rowbust/%s" .Values.adminTokenKey) -}}
{{- end -}}
{{- $_ := set $config "admin" $admin -}}
{{- toYaml $config -}}
{{- end -}}
