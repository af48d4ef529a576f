package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Chart.yaml, with its annotations for Artifact Hub parsed.
type metadata struct {
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Version     string   `json:"version"`
	KubeVersion string   `json:"kubeVersion"`
	Keywords    []string `json:"keywords"`
	Home        string   `json:"home"`
	Maintainers []struct {
		Name  string `json:"name"`
		Email string `json:"email"`
		URL   string `json:"url"`
	} `json:"maintainers"`
	Annotations map[string]string `json:"annotations"`

	links  []link
	images []image
	crds   []definition
}

type link struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

type image struct {
	Name      string   `json:"name"`
	Platforms []string `json:"platforms"`
}

type definition struct {
	Name        string `json:"name"`
	Kind        string `json:"kind"`
	Version     string `json:"version"`
	DisplayName string `json:"displayName"`
	Description string `json:"description"`
}

// The oldest Kubernetes that the chart allows.
func (m *metadata) oldestKubernetes() string {
	return strings.TrimSuffix(strings.TrimPrefix(m.KubeVersion, ">="), "-0")
}

func readMetadata(chart string) (*metadata, error) {
	text, err := os.ReadFile(filepath.Join(chart, "Chart.yaml"))
	if err != nil {
		return nil, err
	}
	meta := &metadata{}
	if err := yaml.Unmarshal(text, meta); err != nil {
		return nil, err
	}
	for name, to := range map[string]any{"links": &meta.links, "images": &meta.images, "crds": &meta.crds} {
		if err := yaml.Unmarshal([]byte(meta.Annotations["artifacthub.io/"+name]), to); err != nil {
			return nil, fmt.Errorf("artifacthub.io/%s: %w", name, err)
		}
	}
	return meta, nil
}

// What the chart makes of some values.
type rendering struct {
	deployment          *appsv1.Deployment
	service             *corev1.Service
	definitions         []*apiextensionsv1.CustomResourceDefinition
	roles               []*rbacv1.Role
	roleBindings        []*rbacv1.RoleBinding
	clusterRoles        []*rbacv1.ClusterRole
	clusterRoleBindings []*rbacv1.ClusterRoleBinding
}

// Kinds of the chart that the bundle does without, each for a reason.
var leftOut = map[string]string{
	"ServiceAccount": "OLM creates the accounts that permissions name, and rejects a bundle that brings them",
	"NetworkPolicy":  "OLM before 0.32 fails on it, and catalogues reject bundles with one",
	"Pod":            "the test of a Helm release",
}

func render(helm, chart, namespace, kubernetes string, sets ...string) (*rendering, error) {
	// The release is named as the chart, so that its objects are too.
	arguments := []string{"template", filepath.Base(chart), chart, "--namespace", namespace, "--kube-version", kubernetes}
	for _, set := range sets {
		arguments = append(arguments, "--set", set)
	}
	command := exec.Command(helm, arguments...)
	var said bytes.Buffer
	command.Stderr = &said
	text, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("helm: %w: %s", err, said.String())
	}
	rendered := &rendering{}
	for _, document := range documents(text) {
		if err := rendered.take(document); err != nil {
			return nil, err
		}
	}
	if rendered.deployment == nil {
		return nil, fmt.Errorf("the chart makes no Deployment")
	}
	return rendered, nil
}

// The documents of a YAML stream that hold more than comments.
func documents(text []byte) [][]byte {
	var all [][]byte
	for _, document := range strings.Split("\n"+string(text), "\n---") {
		var content any
		if yaml.Unmarshal([]byte(document), &content) != nil || content != nil {
			all = append(all, []byte(document))
		}
	}
	return all
}

func (r *rendering) take(document []byte) error {
	kind := metav1.TypeMeta{}
	if err := yaml.Unmarshal(document, &kind); err != nil {
		return err
	}
	var object any
	switch kind.Kind {
	case "Deployment":
		r.deployment = &appsv1.Deployment{}
		object = r.deployment
	case "Service":
		r.service = &corev1.Service{}
		object = r.service
	case "CustomResourceDefinition":
		object = grow(&r.definitions)
	case "Role":
		object = grow(&r.roles)
	case "RoleBinding":
		object = grow(&r.roleBindings)
	case "ClusterRole":
		object = grow(&r.clusterRoles)
	case "ClusterRoleBinding":
		object = grow(&r.clusterRoleBindings)
	default:
		if _, known := leftOut[kind.Kind]; !known {
			return fmt.Errorf("the chart makes a %s now: say in charts/olm/chart.go what becomes of it in the bundle", kind.Kind)
		}
		return nil
	}
	if err := yaml.UnmarshalStrict(document, object); err != nil {
		return fmt.Errorf("%s: %w", kind.Kind, err)
	}
	return nil
}

func grow[T any](list *[]*T) *T {
	one := new(T)
	*list = append(*list, one)
	return one
}

// Rules that an account gets by RoleBindings, role by role.
func (r *rendering) rulesOf(account string) ([][]rbacv1.PolicyRule, error) {
	var all [][]rbacv1.PolicyRule
	for _, binding := range r.roleBindings {
		if !names(binding.Subjects, account) {
			continue
		}
		rules, err := r.rulesOfRole(binding.RoleRef, binding.Namespace)
		if err != nil {
			return nil, fmt.Errorf("the RoleBinding %s: %w", binding.Name, err)
		}
		all = append(all, rules)
	}
	return all, nil
}

// The same by ClusterRoleBindings.
func (r *rendering) clusterRulesOf(account string) ([][]rbacv1.PolicyRule, error) {
	var all [][]rbacv1.PolicyRule
	for _, binding := range r.clusterRoleBindings {
		if !names(binding.Subjects, account) {
			continue
		}
		rules, err := r.rulesOfRole(binding.RoleRef, "")
		if err != nil {
			return nil, fmt.Errorf("the ClusterRoleBinding %s: %w", binding.Name, err)
		}
		all = append(all, rules)
	}
	return all, nil
}

// OLM binds no roles that exist already, so those of the cluster cannot be passed on.
func (r *rendering) rulesOfRole(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	for _, role := range r.roles {
		if ref.Kind == "Role" && ref.Name == role.Name && namespace == role.Namespace {
			return role.Rules, nil
		}
	}
	for _, role := range r.clusterRoles {
		if ref.Kind == "ClusterRole" && ref.Name == role.Name {
			return role.Rules, nil
		}
	}
	return nil, fmt.Errorf("the chart does not make the %s %s, whose rights the bundle would have to give", ref.Kind, ref.Name)
}

// Cluster roles that are bound to nobody: they are for users, by aggregation.
func (r *rendering) rolesOfUsers() []*rbacv1.ClusterRole {
	var all []*rbacv1.ClusterRole
	for _, role := range r.clusterRoles {
		bound := false
		for _, binding := range r.clusterRoleBindings {
			bound = bound || binding.RoleRef.Name == role.Name
		}
		for _, binding := range r.roleBindings {
			bound = bound || binding.RoleRef.Kind == "ClusterRole" && binding.RoleRef.Name == role.Name
		}
		if !bound {
			all = append(all, role)
		}
	}
	return all
}

func names(subjects []rbacv1.Subject, account string) bool {
	for _, subject := range subjects {
		if subject.Kind == "ServiceAccount" && subject.Name == account {
			return true
		}
	}
	return false
}
