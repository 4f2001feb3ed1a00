{{/* The release's name with the chart's, at most 40 characters: suffixes follow. */}}
{{- define "archsearch.fullname" -}}
{{- if contains "archsearch" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-archsearch" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "archsearch.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
app.kubernetes.io/name: archsearch
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: archsearch
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "archsearch.operatorSelector" -}}
app.kubernetes.io/name: archsearch
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "archsearch.devStoreSelector" -}}
app.kubernetes.io/name: archsearch
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: devstore
{{- end -}}

{{/* image: (dict "image" .Values.x.image "root" $) */}}
{{- define "archsearch.image" -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}

{{/* The default storage as JSON: the values' own, else the development store, else nothing. */}}
{{- define "archsearch.storage" -}}
{{- if .Values.storage.uri -}}
{{- .Values.storage | toJson -}}
{{- else if .Values.devStore.enabled -}}
{{- $name := printf "%s-devstore" (include "archsearch.fullname" .) -}}
{{- dict "uri" "s3://archsearch" "endpoint" (printf "http://%s.%s.svc:8333" $name .Release.Namespace) "region" "us-east-1" "secretName" $name | toJson -}}
{{- else -}}
{{- dict "uri" "" "endpoint" "" "region" "" "secretName" "" | toJson -}}
{{- end -}}
{{- end -}}

{{- define "archsearch.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "archsearch.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* What the operator does in the namespaces that it serves. Whatever it hands to a strategy pod it must hold itself. */}}
{{- define "archsearch.operatorRules" -}}
- apiGroups: [archsearch.dev]
  resources: [nasexperiments]
  verbs: [delete, get, list, watch]
- apiGroups: [archsearch.dev]
  resources: [nasexperiments/status]
  verbs: [patch]
- apiGroups: [archsearch.dev]
  resources: [nasexperiments/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [create, delete, deletecollection, get, list, patch, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [serviceaccounts, services]
  verbs: [create, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, list, patch]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles]
  verbs: [create, patch]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [rolebindings]
  verbs: [create, delete, patch]
{{- if .Values.networkPolicy.enabled }}
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [create, patch]
{{- end }}
{{- end -}}
