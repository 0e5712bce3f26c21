{{/*
The container of the service, for the Deployment and for KServe.
Takes root, name, port, portName, models, weights (where they are mounted) and scratch (its volume).
*/}}
{{- define "legrad.container" -}}
{{- $values := .root.Values -}}
- name: {{ .name }}
  image: {{ include "legrad.image" .root | quote }}
  imagePullPolicy: {{ $values.image.pullPolicy }}
  args: [serve]
  ports:
    - name: {{ .portName }}
      containerPort: {{ .port }}
      protocol: TCP
    {{- if .adminPort }}
    - name: admin
      containerPort: {{ .adminPort }}
      protocol: TCP
    {{- end }}
  env:
    - name: LEGRAD_HOST
      value: 0.0.0.0
    - name: LEGRAD_PORT
      value: {{ .port | quote }}
    {{- if .adminPort }}
    # Metrics and the loading of models, which callers do not reach.
    - name: LEGRAD_ADMIN_PORT
      value: {{ .adminPort | quote }}
    {{- end }}
    - name: LEGRAD_MODELS
      value: {{ .models | quote }}
    - name: LEGRAD_REQUEST_TIMEOUT_SECONDS
      value: {{ include "legrad.text" $values.times.request | quote }}
    # Readiness is false at once; requests that endpoints still route here are answered.
    - name: LEGRAD_SHUTDOWN_DELAY_SECONDS
      value: {{ include "legrad.text" $values.times.shutdownDelay | quote }}
    - name: LEGRAD_DRAIN_TIMEOUT_SECONDS
      value: {{ include "legrad.text" $values.times.drain | quote }}
    - name: LEGRAD_PICTURE_PROCESSES
      value: {{ $values.pictureProcesses | quote }}
    {{- if $values.gpu.enabled }}
    - name: LEGRAD_DEVICE
      value: {{ ternary "all" "cuda" (gt (int $values.gpu.count) 1) }}
    {{- else }}
    - name: LEGRAD_DEVICE
      value: cpu
    - name: LEGRAD_COMPUTE_THREADS
      value: {{ $values.computeThreads | quote }}
    - name: OMP_NUM_THREADS
      value: {{ $values.computeThreads | quote }}
    {{- end }}
    {{- if $values.keys.secretName }}
    - name: LEGRAD_API_KEYS_FILE
      value: {{ printf "/run/secrets/legrad/%s" $values.keys.file | quote }}
    {{- end }}
    {{- with $values.trustedProxies }}
    - name: LEGRAD_TRUSTED_PROXIES
      value: {{ join "," . | quote }}
    {{- end }}
    {{- if $values.weights.readOnly }}
    - name: HF_HUB_OFFLINE
      value: "1"
    {{- end }}
    {{- range $name, $value := $values.settings }}
    - name: {{ $name }}
      value: {{ include "legrad.text" $value | quote }}
    {{- end }}
    {{- with $values.environment }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  # The process listens before its model is loaded: large weights only delay readiness.
  startupProbe:
    httpGet:
      path: /health/live
      port: {{ .port }}
    periodSeconds: 2
    timeoutSeconds: 3
    failureThreshold: 60
  readinessProbe:
    httpGet:
      path: /health/ready
      port: {{ .port }}
    periodSeconds: 2
    timeoutSeconds: 3
    failureThreshold: 2
  # Not readiness: a busy or loading replica must not be killed.
  livenessProbe:
    httpGet:
      path: /health/live
      port: {{ .port }}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  {{- $resources := deepCopy $values.resources }}
  {{- if $values.gpu.enabled }}
  {{- $_ := set $resources "limits" (set (default dict $resources.limits) $values.gpu.resource ($values.gpu.count | int | toString)) }}
  {{- end }}
  resources:
    {{- toYaml $resources | nindent 4 }}
  securityContext:
    {{- include "legrad.containerSecurity" .root | nindent 4 }}
    {{- with .security }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumeMounts:
    - name: {{ .scratch }}
      mountPath: /weights
      {{- if $values.weights.readOnly }}
      readOnly: true
      {{- end }}
    - name: tmp
      mountPath: /tmp
    {{- if $values.keys.secretName }}
    # The whole folder, so that a changed Secret arrives.
    - name: keys
      mountPath: /run/secrets/legrad
      readOnly: true
    {{- end }}
{{- end -}}

{{- define "legrad.volumes" -}}
{{- $values := .Values -}}
- name: weights
  {{- if $values.weights.claimName }}
  persistentVolumeClaim:
    claimName: {{ $values.weights.claimName | quote }}
    {{- if $values.weights.readOnly }}
    readOnly: true
    {{- end }}
  {{- else if $values.weights.create }}
  persistentVolumeClaim:
    claimName: {{ include "legrad.fullname" . }}-weights
  {{- else }}
  emptyDir:
    sizeLimit: {{ $values.weights.size | quote }}
  {{- end }}
- name: tmp
  emptyDir:
    medium: Memory
    sizeLimit: 256Mi
{{- if $values.keys.secretName }}
- name: keys
  secret:
    secretName: {{ $values.keys.secretName | quote }}
{{- end }}
{{- end -}}
