package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	operatorsv1alpha1 "github.com/operator-framework/api/pkg/operators/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

const (
	ownCSV       = "manifests/observer-operator.clusterserviceversion.yaml"
	listenerFile = "manifests/observers.fraiseql.dev_observerlisteners.yaml"
	digest       = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	version      = "1.2.3"
)

func helm() string {
	if named := os.Getenv("HELM"); named != "" {
		return named
	}
	return "helm"
}

func sourcesOf(t *testing.T, digest string) *sources {
	t.Helper()
	s, err := read("../..", helm(), digest)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Of a version and a changelog that no release changes.
func sourcesOfVersion(t *testing.T, changelog string) *sources {
	t.Helper()
	s := sourcesOf(t, digest)
	s.meta.Version, s.changelog = version, changelog
	return s
}

func made(t *testing.T, s *sources) string {
	t.Helper()
	folder := t.TempDir()
	if err := write(s, folder); err != nil {
		t.Fatal(err)
	}
	return folder
}

func checkerOf(t *testing.T, s *sources) *checker {
	t.Helper()
	c, err := newChecker(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type csv = operatorsv1alpha1.ClusterServiceVersion

func edit(t *testing.T, folder string, change func(*csv)) {
	t.Helper()
	replace(t, folder, ownCSV, func(text string) string {
		own := &csv{}
		if err := yaml.UnmarshalStrict([]byte(text), own); err != nil {
			t.Fatal(err)
		}
		change(own)
		changed, err := toYAML(own)
		if err != nil {
			t.Fatal(err)
		}
		return string(changed)
	})
}

func replace(t *testing.T, folder, file string, change func(string) string) {
	t.Helper()
	path := filepath.Join(folder, file)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := change(string(text))
	if changed == string(text) {
		t.Fatalf("%s is as before", file)
	}
	if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
}

func words(old, new string) func(string) string {
	return func(text string) string { return strings.ReplaceAll(text, old, new) }
}

func pod(own *csv) *corev1.PodSpec {
	return &own.Spec.InstallStrategy.StrategySpec.DeploymentSpecs[0].Spec.Template.Spec
}

func variable(own *csv, name string) *corev1.EnvVar {
	for i := range pod(own).Containers[0].Env {
		if one := &pod(own).Containers[0].Env[i]; one.Name == name {
			return one
		}
	}
	return nil
}

func TestBundleIsAccepted(t *testing.T) {
	for _, digest := range []string{"", digest} {
		s := sourcesOf(t, digest)
		for _, problem := range checkerOf(t, s).check(made(t, s)) {
			t.Errorf("digest %q: %s", digest, problem)
		}
	}
}

// Bundles with one thing wrong, and words of what is said of it.
var mutations = []struct {
	name   string
	said   string
	change func(t *testing.T, folder string)
}{
	{"a right is missing", "the bundle lacks: apps deployments: delete", csvChange(func(own *csv) {
		rules := own.Spec.InstallStrategy.StrategySpec.Permissions[0].Rules
		for i := range rules {
			if rules[i].APIGroups[0] == "apps" {
				rules[i].Verbs = rules[i].Verbs[:len(rules[i].Verbs)-1]
			}
		}
	})},
	{"a right is too much", "gives more: core pods: delete", csvChange(func(own *csv) {
		rules := own.Spec.InstallStrategy.StrategySpec.Permissions[0].Rules
		for i := range rules {
			if rules[i].Resources[0] == "pods" {
				rules[i].Verbs = append(rules[i].Verbs, "delete")
			}
		}
	})},
	{"a right on a path is too much", "gives more: path /metrics: get", csvChange(func(own *csv) {
		permission := &own.Spec.InstallStrategy.StrategySpec.Permissions[0]
		permission.Rules = append(permission.Rules, readMetrics)
	})},
	{"rights are of the whole cluster", "clusterPermissions, and the chart's ClusterRoles: the bundle gives more", csvChange(func(own *csv) {
		strategy := &own.Spec.InstallStrategy.StrategySpec
		strategy.ClusterPermissions = strategy.Permissions
	})},
	{"rights are another account's", "the bundle lacks: apps deployments", csvChange(func(own *csv) {
		own.Spec.InstallStrategy.StrategySpec.Permissions[0].ServiceAccountName = "other"
	})},
	{"the version is no version", "the bundle cannot be loaded", fileChange(ownCSV, "\n  version: "+version, "\n  version: 1.2")},
	{"the name is of another version", "the bundle is observer-operator.v1.2.4 of version", csvChange(func(own *csv) { own.Name = name("1.2.4") })},
	{"the name is no name", `metadata.name "Observers 1" is invalid`, csvChange(func(own *csv) { own.Name = "Observers 1" })},
	{"it replaces itself", "is not older", csvChange(func(own *csv) { own.Spec.Replaces = own.Name })},
	{"it skips itself", "has the version itself", csvChange(func(own *csv) { own.Annotations["olm.skipRange"] = "<9.0.0" })},
	{"the range is none", "olm.skipRange: ", csvChange(func(own *csv) { own.Annotations["olm.skipRange"] = "all" })},
	{"the oldest Kubernetes is no version", "MinKubeVersion has an invalid value", csvChange(func(own *csv) { own.Spec.MinKubeVersion = "1.30" })},
	{"a definition is not listed", "is present in bundle", csvChange(func(own *csv) {
		owned := &own.Spec.CustomResourceDefinitions.Owned
		*owned = (*owned)[:1]
	})},
	{"a definition is missing", "not found in bundle", func(t *testing.T, folder string) {
		if err := os.Remove(filepath.Join(folder, listenerFile)); err != nil {
			t.Fatal(err)
		}
	}},
	{"a definition is another's", "is not the chart's", fileChange(listenerFile, "maximum: 256", "maximum: 257")},
	{"a definition is not described", "has an empty description", csvChange(func(own *csv) {
		own.Spec.CustomResourceDefinitions.Owned[0].Description = ""
	})},
	{"an example has an unknown field", "unknown field spec.replica", fileChange(ownCSV, `"replicas": 2`, `"replica": 2`)},
	{"an example has a wrong value", "spec.replicas in body should be less than or equal to", fileChange(ownCSV, `"replicas": 2`, `"replicas": 1000`)},
	{"an example breaks a rule", "alm-examples: order-events", fileChange(ownCSV, `"name": "send",`, `"name": "send", "log": {},`)},
	{"an example is of another kind", "example must have a provided API", fileChange(ownCSV, `"kind": "Observer"`, `"kind": "Watcher"`)},
	{"a kind has no example", "should have an example annotation", csvChange(func(own *csv) { own.Annotations["alm-examples"] = "[]" })},
	{"a field is unknown", "unknown field", fileChange(ownCSV, "\n  maturity:", "\n  maturityLevel:")},
	{"the pod asks for no memory", "unable to find the resource requests", csvChange(func(own *csv) {
		pod(own).Containers[0].Resources.Requests = nil
	})},
	{"the pod is not the chart's", "the pod is not the chart's", csvChange(func(own *csv) { pod(own).HostNetwork = true })},
	{"the namespaces are fixed", "does not come from metadata.annotations['olm.targetNamespaces']", csvChange(func(own *csv) {
		*variable(own, namespacesVariable) = corev1.EnvVar{Name: namespacesVariable, Value: "shop"}
	})},
	{"listeners run another image", "several images", csvChange(func(own *csv) { variable(own, listenerImageVariable).Value = "other:1" })},
	{"the image is not of the digest", "is not of the digest", fileChange(ownCSV, digest, strings.Replace(digest, "0", "f", 1))},
	{"install modes are gone", "install modes not found", csvChange(func(own *csv) { own.Spec.InstallModes = nil })},
	{"an install mode is gone", "the operator supports 4 install modes", csvChange(func(own *csv) {
		own.Spec.InstallModes[1].Supported = false
	})},
	{"a category is unknown", "standard categories", csvChange(func(own *csv) { own.Annotations["categories"] = "Postgres" })},
	{"the level is unknown", "capabilities level", csvChange(func(own *csv) { own.Annotations["capabilities"] = "Telepathy" })},
	{"nobody provides it", "Provider.Name not specified", csvChange(func(own *csv) { own.Spec.Provider.Name = "" })},
	{"there is an icon", "accepts a warning that does not come", csvChange(func(own *csv) {
		own.Spec.Icon = []operatorsv1alpha1.Icon{{Data: "PHN2Zy8+", MediaType: "image/svg+xml"}}
	})},
	{"the channel is another", "annotations.yaml says", fileChange("metadata/annotations.yaml", "channels.v1: candidate", "channels.v1: alpha")},
	{"the image has other labels", "the labels in bundle.Dockerfile", fileChange(dockerfile, "registry+v1", "helm")},
	{"a kind is not for all of OLM", "not every release of OLM takes a NetworkPolicy", func(t *testing.T, folder string) {
		text := "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: all}\nspec: {podSelector: {}}\n"
		if err := put(filepath.Join(folder, "manifests/policy.yaml"), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}},
}

var readMetrics = rbacv1.PolicyRule{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}}

func csvChange(change func(*csv)) func(*testing.T, string) {
	return func(t *testing.T, folder string) { edit(t, folder, change) }
}

func fileChange(file, old, new string) func(*testing.T, string) {
	return func(t *testing.T, folder string) { replace(t, folder, file, words(old, new)) }
}

func TestMistakesAreNoticed(t *testing.T) {
	s := sourcesOfVersion(t, "## [1.2.3] - 2026-12-24\n## [1.2.2] - 2026-12-01\n")
	c := checkerOf(t, s)
	right := made(t, s)
	for _, problem := range c.check(right) {
		t.Errorf("before any mistake: %s", problem)
	}
	for _, one := range mutations {
		t.Run(strings.ReplaceAll(one.name, " ", "_"), func(t *testing.T) {
			folder := t.TempDir()
			if err := os.CopyFS(folder, os.DirFS(right)); err != nil {
				t.Fatal(err)
			}
			one.change(t, folder)
			problems := c.check(folder)
			if all := strings.Join(problems, "\n"); !strings.Contains(all, one.said) {
				t.Errorf("nothing is said of %q, but:\n%s", one.said, all)
			}
		})
	}
}

// A chart that gives what the bundle does not, or cannot.
func TestRightsOfTheChartAreNoticed(t *testing.T) {
	const account = "observer-operator"
	subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Name: account}}
	delegator := rbacv1.RoleRef{Kind: "ClusterRole", Name: "system:auth-delegator"}
	for _, one := range []struct {
		name   string
		said   string
		change func(*rendering)
		// Whether no bundle can be made of it.
		fails bool
	}{
		{"a right on a path is missing", "the bundle lacks: path /metrics: get", func(chart *rendering) {
			role := grow(&chart.clusterRoles)
			role.Name, role.Rules = "reader", []rbacv1.PolicyRule{readMetrics}
			binding := grow(&chart.clusterRoleBindings)
			binding.RoleRef, binding.Subjects = rbacv1.RoleRef{Kind: "ClusterRole", Name: role.Name}, subjects
		}, false},
		{"a role of the cluster is bound", "does not make the ClusterRole system:auth-delegator", func(chart *rendering) {
			binding := grow(&chart.clusterRoleBindings)
			binding.RoleRef, binding.Subjects = delegator, subjects
		}, true},
		{"a role of the cluster is bound in a namespace", "does not make the ClusterRole system:auth-delegator", func(chart *rendering) {
			binding := grow(&chart.roleBindings)
			binding.RoleRef, binding.Subjects = delegator, subjects
		}, true},
		{"a role is of another namespace", "does not make the Role observer-operator", func(chart *rendering) {
			chart.roles[0].Namespace = "other"
		}, true},
	} {
		t.Run(strings.ReplaceAll(one.name, " ", "_"), func(t *testing.T) {
			s := sourcesOf(t, digest)
			if is := s.chart.deployment.Spec.Template.Spec.ServiceAccountName; is != account {
				t.Fatalf("the account is %s", is)
			}
			folder := made(t, s)
			one.change(s.chart)
			if all := strings.Join(checkerOf(t, s).check(folder), "\n"); !strings.Contains(all, one.said) {
				t.Errorf("nothing is said of %q, but:\n%s", one.said, all)
			}
			_, err := makeCSV(s)
			if one.fails && (err == nil || !strings.Contains(err.Error(), one.said)) {
				t.Errorf("a bundle is made: %v", err)
			}
			if !one.fails && err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPredecessorComesFromTheChangelog(t *testing.T) {
	s := sourcesOfVersion(t, "")
	for _, one := range []struct{ changelog, replaces, created string }{
		{"## [Unreleased]\n", "", ""},
		{"## [Unreleased]\n## [0.0.9] - 2026-01-02\n", "observer-operator.v0.0.9", ""},
		{"## [1.2.3] - 2026-12-24\n## [1.2.3-rc.1] - 2026-12-01\n", "observer-operator.v1.2.3-rc.1", "2026-12-24"},
		{"## [1.2.3] - 2026-12-24\n", "", "2026-12-24"},
	} {
		s.changelog = one.changelog
		own, err := makeCSV(s)
		if err != nil {
			t.Fatal(err)
		}
		if own.Spec.Replaces != one.replaces || own.Annotations["createdAt"] != one.created {
			t.Errorf("%q: replaces %q, created %q", one.changelog, own.Spec.Replaces, own.Annotations["createdAt"])
		}
	}
}
