{{/* The operator's objects: RELEASE-operator. */}}
{{- define "imaccess.operator" -}}
{{- printf "%s-operator" (.Release.Name | trunc 50 | trimSuffix "-") -}}
{{- end }}

{{- define "imaccess.selector" -}}
app.kubernetes.io/name: imaccess-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "imaccess.labels" -}}
{{ include "imaccess.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") | quote }}
{{- end }}

{{- define "imaccess.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end }}

{{/* The namespaces that the operator has rights in, its own among them. */}}
{{- define "imaccess.namespaces" -}}
{{- append .Values.watchNamespaces .Release.Namespace | uniq | sortAlpha | join "," -}}
{{- end }}

{{/* What the operator may do where it looks after clusters: what it makes it lists, watches, makes, changes and deletes. The same, by a ClusterRole or by a Role in each namespace. */}}
{{- define "imaccess.rules" -}}
- apiGroups: [imaccess.io]
  resources: [imaccessclusters]
  verbs: [get, list, watch]
- apiGroups: [imaccess.io]
  resources: [imaccessclusters/status]
  verbs: [patch]
# For owner references that block deletion, where the API server checks who may set them.
- apiGroups: [imaccess.io]
  resources: [imaccessclusters/finalizers]
  verbs: [update]
# Secrets that a cluster names are read by name; the operator's own are made, renewed and watched.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [configmaps, services, serviceaccounts]
  verbs: [list, watch, create, patch, delete]
# To put slots and addresses on gateway pods, to replace images in them, and to try images in pods of its own. `get` is there
# because the operator grants it to ipconfig and routing.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, patch, delete]
# To tell the gateways' ReplicaSet what its pods have got in place.
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [list, patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
