{{- /* Name of all objects. */ -}}
{{- define "observer-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* The same for objects of the cluster that several installations of one name have. */ -}}
{{- define "observer-operator.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "observer-operator.fullname" .) -}}
{{- end -}}

{{- define "observer-operator.selectorLabels" -}}
app.kubernetes.io/name: observer-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "observer-operator.labels" -}}
{{ include "observer-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: observers
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "observer-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "observer-operator.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- /* Account by which the monitors read metrics, and the Secret with its token. */ -}}
{{- define "observer-operator.metricsReader" -}}
{{- printf "%s-metrics-reader" (include "observer-operator.fullname" .) -}}
{{- end -}}

{{- define "observer-operator.metricsAuthorization" -}}
{{- if .Values.metrics.authorize -}}
authorization:
  credentials: {name: {{ include "observer-operator.metricsReader" . }}, key: token}
{{- end -}}
{{- end -}}

{{- define "observer-operator.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- /* Namespaces that it serves, with commas between them; nothing for all. */ -}}
{{- define "observer-operator.namespaces" -}}
{{- if and .Values.watch.allNamespaces .Values.watch.namespaces -}}
{{- fail "watch.allNamespaces serves all namespaces: leave watch.namespaces empty, or set watch.allNamespaces to false" -}}
{{- end -}}
{{- if not .Values.watch.allNamespaces -}}
{{- .Values.watch.namespaces | default (list .Release.Namespace) | join "," -}}
{{- end -}}
{{- end -}}

{{- /* The `restricted` Pod Security Standard, for the operator and the test. */ -}}
{{- define "observer-operator.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "observer-operator.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /*
What the operator may do in the namespaces that it serves. It may grant the listeners only what
it holds itself, so it holds Leases and Secrets as they do.
*/ -}}
{{- define "observer-operator.rules" -}}
- apiGroups: [observers.fraiseql.dev]
  resources: [observerlisteners]
  verbs: [get, list, watch, patch] # patch: its finalizer
- apiGroups: [observers.fraiseql.dev]
  resources: [observers]
  verbs: [get, list, watch]
- apiGroups: [observers.fraiseql.dev]
  resources: [observerlisteners/status, observers/status]
  verbs: [patch, update]
- apiGroups: [""]
  resources: [secrets, serviceaccounts, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs] # one removes the rows of a listener that is deleted
  verbs: [get, create]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create, delete, get, list, update, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: ["", events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
