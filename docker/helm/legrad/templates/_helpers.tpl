{{- define "legrad.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 43 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 43 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "legrad.selector" -}}
app.kubernetes.io/name: legrad
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "legrad.replicaSelector" -}}
{{ include "legrad.selector" . }}
app.kubernetes.io/component: replica
{{- end -}}

{{- define "legrad.balancerSelector" -}}
{{ include "legrad.selector" . }}
app.kubernetes.io/component: balancer
{{- end -}}

{{- define "legrad.labels" -}}
{{ include "legrad.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* The pods of the service, as a LabelSelector: those of KServe have its labels. */}}
{{- define "legrad.pods" -}}
{{- if .Values.kserve.enabled -}}
matchExpressions:
  - key: serving.kserve.io/inferenceservice
    operator: In
    values:
      {{- range .Values.kserve.services }}
      - {{ .name | quote }}
      {{- end }}
{{- else -}}
matchLabels:
  {{- include "legrad.replicaSelector" . | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* The Service whose endpoints are the replicas. */}}
{{- define "legrad.replicaService" -}}
{{ include "legrad.fullname" . }}{{ if .Values.balancer.enabled }}-replicas{{ end }}
{{- end -}}

{{- define "legrad.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default (ternary "cuda" "cpu" .Values.gpu.enabled) $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Numbers come as floating-point; printed as such, 512000000 would be 5.12e+08. */}}
{{- define "legrad.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{/* Not empty if the claim that is made can be written to on one node alone, or by one pod. */}}
{{- define "legrad.oneNode" -}}
{{- with .Values.weights -}}
{{- if and .create (or (has "ReadWriteOncePod" .accessModes) (not (has "ReadWriteMany" .accessModes))) -}}
true
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "legrad.strategy" -}}
type: RollingUpdate
rollingUpdate:
  {{- if or .Values.gpu.enabled (include "legrad.oneNode" .) }}
  # A further replica would wait for a free GPU or the claim, perhaps forever.
  maxUnavailable: 1
  maxSurge: 0
  {{- else }}
  maxUnavailable: 0
  maxSurge: 1
  {{- end }}
{{- end -}}

{{/* Seconds after which a pod is killed: the shutdown delay, the drain timeout and the exit. */}}
{{- define "legrad.gracePeriod" -}}
{{- ceil (addf .Values.times.shutdownDelay .Values.times.drain 20) -}}
{{- end -}}

{{/* Seconds after which a proxy gives a replica up; longer than the service's own deadline. */}}
{{- define "legrad.answerTimeout" -}}
{{- ceil (addf .Values.times.request 10) -}}
{{- end -}}

{{/*
Seconds after which a balancer that is stopped ends: as haproxy.cfg has it, an idle connection (30)
brings one more request, whose head (10) and answer are waited for.
*/}}
{{- define "legrad.balancerHardStop" -}}
{{- addf 30 10 (include "legrad.answerTimeout" . | float64) -}}
{{- end -}}

{{- define "legrad.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
# A large volume is not gone through at each start if its owner is right.
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "legrad.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "legrad.placement" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* One requirement for all files, so that no combination of values is silently wrong. */}}
{{- define "legrad.check" -}}
{{- $values := .Values -}}
{{- $scaling := $values.autoscaling -}}
{{- if lt (float64 $values.times.drain) (float64 $values.times.request) -}}
{{- fail "times.drain is less than times.request: raise it, or a stopping replica gives requests up before their deadline" -}}
{{- end -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- fail "autoscaling.minReplicas is more than autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and (eq $scaling.kind "keda") (or (lt (int $scaling.keda.fallbackReplicas) (int $scaling.minReplicas)) (gt (int $scaling.keda.fallbackReplicas) (int $scaling.maxReplicas))) -}}
{{- fail "autoscaling.keda.fallbackReplicas must lie between autoscaling.minReplicas and autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and (eq $scaling.kind "cpu") $values.gpu.enabled -}}
{{- fail "the processor is idle while a GPU computes: set autoscaling.kind to keda or none with gpu.enabled" -}}
{{- end -}}
{{- if and (eq $scaling.kind "cpu") (not (dig "requests" "cpu" "" $values.resources)) -}}
{{- fail "autoscaling.kind cpu needs resources.requests.cpu: it scales by a share of that" -}}
{{- end -}}
{{- if and $values.keys.secretName $values.monitoring.serviceMonitor.enabled (not $values.monitoring.serviceMonitor.keySecret.name) -}}
{{- fail "Prometheus needs a key with the scope metrics: set monitoring.serviceMonitor.keySecret.name, or leave keys.secretName empty" -}}
{{- end -}}
{{- if and $values.balancer.enabled $values.ingress.enabled -}}
{{- fail "balancer.enabled and ingress.enabled exclude each other: both end the callers' connections" -}}
{{- end -}}
{{- if and $values.ingress.enabled (not $values.ingress.host) -}}
{{- fail "ingress.enabled needs ingress.host" -}}
{{- end -}}
{{- if and (ne $values.service.type "ClusterIP") $values.networkPolicy.enabled (not $values.networkPolicy.callerBlocks) -}}
{{- fail (printf "service.type %s needs networkPolicy.callerBlocks, such as 0.0.0.0/0: callers from outside of the cluster are in none of its namespaces" $values.service.type) -}}
{{- end -}}
{{- if and $values.weights.create $values.weights.claimName -}}
{{- fail "weights.create and weights.claimName exclude each other" -}}
{{- end -}}
{{- if and $values.weights.readOnly (not $values.weights.claimName) -}}
{{- fail "weights.readOnly needs weights.claimName: nothing would ever be in the folder" -}}
{{- end -}}
{{- if $values.weights.create -}}
{{- if eq (toJson (uniq $values.weights.accessModes)) "[\"ReadOnlyMany\"]" -}}
{{- fail "weights.create with ReadOnlyMany makes a claim that nothing can be written to: set another of weights.accessModes, or weights.claimName and weights.readOnly" -}}
{{- end -}}
{{- $most := ternary $values.replicas $scaling.maxReplicas (eq $scaling.kind "none") -}}
{{- if and (include "legrad.oneNode" .) (gt (int $most) 1) -}}
{{- fail (printf "weights.accessModes with %s lets pods start on one node alone: set ReadWriteMany, or autoscaling.kind to none and replicas to 1" (join ", " $values.weights.accessModes)) -}}
{{- end -}}
{{- end -}}
{{- with $values.monitoring.alertmanager -}}
{{- if and .enabled (not .webhook.secretName) (not .slack.secretName) -}}
{{- fail "monitoring.alertmanager.enabled needs webhook.secretName or slack.secretName: alerts would go nowhere" -}}
{{- end -}}
{{- if and .slack.secretName (not .slack.channel) -}}
{{- fail "monitoring.alertmanager.slack needs a channel" -}}
{{- end -}}
{{- end -}}
{{- if $values.kserve.enabled -}}
{{- if or $values.balancer.enabled $values.ingress.enabled -}}
{{- fail "kserve.enabled excludes balancer.enabled and ingress.enabled: KServe routes requests itself" -}}
{{- end -}}
{{- if or $values.weights.create $values.weights.claimName -}}
{{- fail "kserve.enabled excludes weights: name them by kserve.services[].storageUri, such as pvc://CLAIM/FOLDER" -}}
{{- end -}}
{{- if ne (toJson $values.models) "[\"starter\"]" -}}
{{- fail "kserve.enabled excludes models: each of kserve.services is a model" -}}
{{- end -}}
{{- if not $values.kserve.services -}}
{{- fail "kserve.enabled needs at least one entry in kserve.services" -}}
{{- end -}}
{{- $names := list -}}
{{- range $values.kserve.services -}}
{{- if has .name $names -}}
{{- fail (printf "kserve.services has the name %s twice: it is the name of one InferenceService" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- if and (eq $scaling.kind "keda") (gt (len $names) 1) (not $values.monitoring.serviceMonitor.enabled) -}}
{{- fail "autoscaling.kind keda with several kserve.services needs monitoring.serviceMonitor.enabled: without its label `service`, the queues of all of them would scale each" -}}
{{- end -}}
{{- else if $values.kserve.services -}}
{{- fail "kserve.services needs kserve.enabled" -}}
{{- end -}}
{{- end -}}

{{/* Not empty where a Prometheus may find pods by their annotations: it has no key. */}}
{{- define "legrad.scrapedByAnnotations" -}}
{{- if not (or .Values.monitoring.serviceMonitor.enabled .Values.keys.secretName) -}}
yes
{{- end -}}
{{- end -}}
