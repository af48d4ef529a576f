package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/blang/semver/v4"
	operatorsv1alpha1 "github.com/operator-framework/api/pkg/operators/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

const (
	namespacesVariable    = "OBSERVER_NAMESPACES"
	listenerImageVariable = "OBSERVER_LISTENER_IMAGE"
	// Where OLM writes the namespaces of the OperatorGroup, in the annotations of the pods.
	targetNamespaces = "metadata.annotations['olm.targetNamespaces']"
	// The docs' example of a listener with observers, which the tests of the listener run.
	examples = "docs/examples/cluster.yaml"
)

// Everything that a bundle is made of.
type sources struct {
	root string
	helm string
	// Digest of the image; without one, its tag is the version.
	digest string

	base      *operatorsv1alpha1.ClusterServiceVersion
	meta      *metadata
	chart     *rendering
	changelog string
}

func (s *sources) folder() string { return filepath.Join(s.root, "charts/observer-operator") }

func (s *sources) namespace() string {
	return s.base.Annotations["operatorframework.io/suggested-namespace"]
}

func (s *sources) render(sets ...string) (*rendering, error) {
	if s.digest != "" {
		sets = append(sets, "image.digest="+s.digest)
	}
	return render(s.helm, s.folder(), s.namespace(), s.meta.oldestKubernetes(), sets...)
}

func read(root, helm, digest string) (*sources, error) {
	s := &sources{root: root, helm: helm, digest: digest, base: &operatorsv1alpha1.ClusterServiceVersion{}}
	text, err := os.ReadFile(filepath.Join(root, "charts/olm/base.yaml"))
	if err != nil {
		return nil, err
	}
	if err := yaml.UnmarshalStrict(text, s.base); err != nil {
		return nil, fmt.Errorf("base.yaml: %w", err)
	}
	if s.meta, err = readMetadata(s.folder()); err != nil {
		return nil, err
	}
	changelog, err := os.ReadFile(filepath.Join(root, "CHANGELOG.md"))
	s.changelog = string(changelog)
	if err != nil {
		return nil, err
	}
	s.chart, err = s.render()
	return s, err
}

func name(version string) string { return "observer-operator.v" + version }

func makeCSV(s *sources) (*operatorsv1alpha1.ClusterServiceVersion, error) {
	csv := s.base.DeepCopy()
	version, err := semver.Parse(s.meta.Version)
	if err != nil {
		return nil, fmt.Errorf("the chart's version: %w", err)
	}
	csv.Name = name(s.meta.Version)
	csv.Spec.Version.Version = version
	csv.Spec.MinKubeVersion = s.meta.oldestKubernetes()
	csv.Spec.Keywords = s.meta.Keywords
	for _, link := range s.meta.links {
		csv.Spec.Links = append(csv.Spec.Links, operatorsv1alpha1.AppLink{Name: link.Name, URL: link.URL})
	}
	for i, maintainer := range s.meta.Maintainers {
		if i == 0 {
			csv.Spec.Provider = operatorsv1alpha1.AppLink{Name: maintainer.Name, URL: maintainer.URL}
		}
		// OLM's maintainers have an address.
		if maintainer.Email != "" {
			one := operatorsv1alpha1.Maintainer{Name: maintainer.Name, Email: maintainer.Email}
			csv.Spec.Maintainers = append(csv.Spec.Maintainers, one)
		}
	}
	if err := addInstall(csv, s); err != nil {
		return nil, err
	}
	if err := addDefinitions(csv, s); err != nil {
		return nil, err
	}
	if err := addAnnotations(csv, s); err != nil {
		return nil, err
	}
	addPredecessor(csv, s)
	return csv, nil
}

// The Deployment and its rights. OLM itself gives an operator of all namespaces `permissions` in the whole cluster, and
// there the right to read namespaces too, so those of an operator of its own namespace are all that it needs.
func addInstall(csv *operatorsv1alpha1.ClusterServiceVersion, s *sources) error {
	spec := *s.chart.deployment.Spec.DeepCopy()
	spec.Template.Labels = labels(spec.Template.Labels)
	if err := setNamespaces(&spec.Template.Spec); err != nil {
		return err
	}
	account := spec.Template.Spec.ServiceAccountName
	strategy := &csv.Spec.InstallStrategy
	strategy.StrategyName = operatorsv1alpha1.InstallStrategyNameDeployment
	strategy.StrategySpec.DeploymentSpecs = []operatorsv1alpha1.StrategyDeploymentSpec{{
		Name: s.chart.deployment.Name, Label: labels(s.chart.deployment.Labels), Spec: spec,
	}}
	rules, err := s.chart.rulesOf(account)
	if err != nil {
		return err
	}
	clusterRules, err := s.chart.clusterRulesOf(account)
	if err != nil {
		return err
	}
	strategy.StrategySpec.Permissions = permissions(account, rules)
	strategy.StrategySpec.ClusterPermissions = permissions(account, clusterRules)
	image := spec.Template.Spec.Containers[0].Image
	if len(s.meta.images) != 1 {
		return fmt.Errorf("Chart.yaml lists %d images, and the bundle knows of one", len(s.meta.images))
	}
	csv.Spec.RelatedImages = []operatorsv1alpha1.RelatedImage{{Name: s.meta.images[0].Name, Image: image}}
	csv.Annotations["containerImage"] = image
	csv.Labels = map[string]string{}
	for _, platform := range s.meta.images[0].Platforms {
		system, architecture, _ := strings.Cut(platform, "/")
		csv.Labels["operatorframework.io/os."+system] = "supported"
		csv.Labels["operatorframework.io/arch."+architecture] = "supported"
	}
	return nil
}

func permissions(account string, roles [][]rbacv1.PolicyRule) []operatorsv1alpha1.StrategyDeploymentPermissions {
	var all []operatorsv1alpha1.StrategyDeploymentPermissions
	for _, rules := range roles {
		all = append(all, operatorsv1alpha1.StrategyDeploymentPermissions{ServiceAccountName: account, Rules: rules})
	}
	return all
}

// The chart's labels, without those that say that Helm keeps the object.
func labels(given map[string]string) map[string]string {
	kept := map[string]string{}
	for label, value := range given {
		switch label {
		case "helm.sh/chart":
		case "app.kubernetes.io/managed-by":
			kept[label] = "olm"
		default:
			kept[label] = value
		}
	}
	return kept
}

// Has the operator serve the namespaces of its OperatorGroup instead of the chart's.
func setNamespaces(pod *corev1.PodSpec) error {
	for i := range pod.Containers[0].Env {
		variable := &pod.Containers[0].Env[i]
		if variable.Name == namespacesVariable {
			field := &corev1.ObjectFieldSelector{FieldPath: targetNamespaces}
			*variable = corev1.EnvVar{Name: namespacesVariable, ValueFrom: &corev1.EnvVarSource{FieldRef: field}}
			return nil
		}
	}
	return fmt.Errorf("the chart does not set %s", namespacesVariable)
}

func addDefinitions(csv *operatorsv1alpha1.ClusterServiceVersion, s *sources) error {
	owned := csv.Spec.CustomResourceDefinitions.Owned
	for _, said := range s.meta.crds {
		at := slices.IndexFunc(owned, func(one operatorsv1alpha1.CRDDescription) bool { return one.Name == said.Name })
		if at < 0 {
			owned = append(owned, operatorsv1alpha1.CRDDescription{Name: said.Name, Kind: said.Kind, Version: said.Version})
			at = len(owned) - 1
		}
		one := &owned[at]
		one.DisplayName, one.Description = said.DisplayName, said.Description
		schema, err := schemaOf(s.chart.definitions, one.Name, one.Version)
		if err != nil {
			return err
		}
		for i := range one.SpecDescriptors {
			descriptor := &one.SpecDescriptors[i]
			if descriptor.Description, err = describe(schema, "spec", descriptor.Path); err != nil {
				return err
			}
		}
		for i := range one.StatusDescriptors {
			descriptor := &one.StatusDescriptors[i]
			if descriptor.Description, err = describe(schema, "status", descriptor.Path); err != nil {
				return err
			}
		}
	}
	csv.Spec.CustomResourceDefinitions.Owned = owned
	return nil
}

func schemaOf(definitions []*apiextensionsv1.CustomResourceDefinition, name, version string) (*apiextensionsv1.JSONSchemaProps, error) {
	for _, one := range definitions {
		for _, served := range one.Spec.Versions {
			if one.Name == name && served.Name == version {
				return served.Schema.OpenAPIV3Schema, nil
			}
		}
	}
	return nil, fmt.Errorf("the chart has no definition %s of %s", name, version)
}

// The description of a field, which must be there.
func describe(schema *apiextensionsv1.JSONSchemaProps, part, path string) (string, error) {
	at := schema.Properties[part]
	for _, field := range strings.Split(path, ".") {
		inner, found := at.Properties[field]
		if !found {
			return "", fmt.Errorf("base.yaml describes the field %s of %s, which is not there", path, part)
		}
		at = inner
	}
	return at.Description, nil
}

func addAnnotations(csv *operatorsv1alpha1.ClusterServiceVersion, s *sources) error {
	text, err := os.ReadFile(filepath.Join(s.root, examples))
	if err != nil {
		return err
	}
	var all []json.RawMessage
	for _, document := range documents(text) {
		one, err := yaml.YAMLToJSONStrict(document)
		if err != nil {
			return fmt.Errorf("%s: %w", examples, err)
		}
		all = append(all, one)
	}
	var listed strings.Builder
	encoder := json.NewEncoder(&listed)
	// Conditions have signs such as `>`, and a person reads them.
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(all); err != nil {
		return err
	}
	level := strings.Fields(s.meta.Annotations["artifacthub.io/operatorCapabilities"])
	for i, word := range level {
		level[i] = strings.ToUpper(word[:1]) + word[1:]
	}
	csv.Annotations["alm-examples"] = strings.TrimSpace(listed.String())
	csv.Annotations["capabilities"] = strings.Join(level, " ")
	csv.Annotations["description"] = s.meta.Description
	csv.Annotations["repository"] = s.meta.Home
	csv.Annotations["support"] = csv.Spec.Provider.Name
	return nil
}

var heading = regexp.MustCompile(`(?m)^## \[([0-9][^\]]*)\](?: - ([0-9-]+))?`)

// What it replaces. Any release may be upgraded to any later one, which the range says for clusters; catalogues want a
// chain, so it also names the release before it in the changelog.
func addPredecessor(csv *operatorsv1alpha1.ClusterServiceVersion, s *sources) {
	csv.Annotations["olm.skipRange"] = "<" + s.meta.Version
	releases := heading.FindAllStringSubmatch(s.changelog, -1)
	for i, release := range releases {
		if release[1] != s.meta.Version {
			continue
		}
		if release[2] != "" {
			csv.Annotations["createdAt"] = release[2]
		}
		releases = releases[i+1:]
		break
	}
	if len(releases) > 0 && releases[0][1] != s.meta.Version {
		csv.Spec.Replaces = name(releases[0][1])
	}
}
