package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/blang/semver/v4"
	"github.com/operator-framework/api/pkg/manifests"
	operatorsv1alpha1 "github.com/operator-framework/api/pkg/operators/v1alpha1"
	"github.com/operator-framework/api/pkg/validation"
	interfaces "github.com/operator-framework/api/pkg/validation/interfaces"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// All that concern bundles, but two: one pulls the image by Docker, which knows it only after a release, and the one of
// community operators is deprecated and does not look for more.
var validators = interfaces.Validators{
	validation.ClusterServiceVersionValidator,
	validation.CustomResourceDefinitionValidator,
	validation.BundleValidator,
	validation.OperatorHubV2Validator,
	validation.StandardCapabilitiesValidator,
	validation.StandardCategoriesValidator,
	validation.ObjectValidator,
	validation.AlphaDeprecatedAPIsValidator,
	validation.GoodPracticesValidator,
}

// Warnings that stay, each with its reason.
var accepted = map[string]string{
	"csv.Spec.Icon not specified": "the project has no icon",
}

// Kinds that all releases of OLM take in a bundle, of those that the chart makes.
var supported = []string{"ClusterServiceVersion", "CustomResourceDefinition", "ClusterRole", "Service"}

type checker struct {
	s          *sources
	everywhere *rendering
	golden     string
	judges     map[string]*judge
	problems   []string
}

func newChecker(s *sources) (*checker, error) {
	everywhere, err := s.render("watch.allNamespaces=true")
	if err != nil {
		return nil, err
	}
	golden, err := os.ReadFile(filepath.Join(s.root, "operator/tests/golden/rights.md"))
	if err != nil {
		return nil, err
	}
	judges, err := newJudges(s.chart.definitions)
	return &checker{s: s, everywhere: everywhere, golden: string(golden), judges: judges}, err
}

func (c *checker) wrong(format string, arguments ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, arguments...))
}

// Returns what is wrong with the bundle in a folder.
func (c *checker) check(folder string) []string {
	c.problems = nil
	c.checkFiles(folder)
	bundle, err := manifests.GetBundleFromDir(folder)
	if err != nil || bundle.CSV == nil {
		c.wrong("the bundle cannot be loaded: %v", err)
		return c.problems
	}
	for _, object := range bundle.Objects {
		if !slices.Contains(supported, object.GetKind()) {
			c.wrong("not every release of OLM takes a %s", object.GetKind())
		}
	}
	// Before OLM's validators, which set defaults.
	c.checkDefinitions(bundle)
	c.validate(bundle)
	c.checkRights(bundle.CSV)
	c.checkExamples(bundle.CSV.Annotations["alm-examples"])
	c.checkVersion(bundle.CSV)
	c.checkPod(bundle.CSV)
	return c.problems
}

// Has OLM's own validators judge it.
func (c *checker) validate(bundle *manifests.Bundle) {
	seen := map[string]bool{}
	for _, result := range validators.Validate(bundle.ObjectsToValidate()...) {
		for _, one := range result.Errors {
			c.wrong("%v", one.Error())
		}
		for _, one := range result.Warnings {
			reason := ""
			for words := range accepted {
				if strings.Contains(one.Detail, words) {
					seen[words] = true
					reason = words
				}
			}
			if reason == "" {
				c.wrong("mend this warning, or accept it in check.go with a reason: %v", one.Error())
			}
		}
	}
	for words := range accepted {
		if !seen[words] {
			c.wrong("check.go accepts a warning that does not come: %s", words)
		}
	}
}

// Files that OLM's loader passes over or reads leniently.
func (c *checker) checkFiles(folder string) {
	said := struct {
		Annotations map[string]string `json:"annotations"`
	}{}
	for file, to := range map[string]any{
		csvFile(c.s):                &operatorsv1alpha1.ClusterServiceVersion{},
		"metadata/annotations.yaml": &said,
	} {
		text, err := os.ReadFile(filepath.Join(folder, file))
		if err == nil {
			err = yaml.UnmarshalStrict(text, to)
		}
		if err != nil {
			c.wrong("%s: %v", file, err)
		}
	}
	if !maps.Equal(said.Annotations, annotations(c.s)) {
		c.wrong("annotations.yaml says %v", said.Annotations)
	}
	if text, err := os.ReadFile(filepath.Join(folder, dockerfile)); err != nil || !bytes.Equal(text, imageFile(said.Annotations)) {
		c.wrong("the labels in %s are not what annotations.yaml says", dockerfile)
	}
}

// Whether OLM upgrades to it from every release before it, and from no other.
func (c *checker) checkVersion(csv *operatorsv1alpha1.ClusterServiceVersion) {
	version := csv.Spec.Version.Version
	if version.String() != c.s.meta.Version || csv.Name != name(c.s.meta.Version) {
		c.wrong("the bundle is %s of version %s, and the chart's version is %s", csv.Name, version, c.s.meta.Version)
	}
	skips, err := semver.ParseRange(csv.Annotations["olm.skipRange"])
	if err != nil {
		c.wrong("olm.skipRange: %v", err)
		return
	}
	if skips(version) {
		c.wrong("olm.skipRange %s has the version itself", csv.Annotations["olm.skipRange"])
	}
	for _, release := range heading.FindAllStringSubmatch(c.s.changelog, -1) {
		before, err := semver.Parse(release[1])
		if err != nil {
			c.wrong("CHANGELOG.md: %s: %v", release[1], err)
		} else if before.LT(version) && !skips(before) {
			c.wrong("olm.skipRange %s leaves out %s", csv.Annotations["olm.skipRange"], before)
		}
	}
	if csv.Spec.Replaces == "" {
		return
	}
	replaced, err := semver.Parse(strings.TrimPrefix(csv.Spec.Replaces, name("")))
	if err != nil || !replaced.LT(version) {
		c.wrong("%s replaces %s, which is not older", csv.Name, csv.Spec.Replaces)
	}
}

// Whether the pod is the chart's, and is told of its namespaces as OLM tells.
func (c *checker) checkPod(csv *operatorsv1alpha1.ClusterServiceVersion) {
	deployments := csv.Spec.InstallStrategy.StrategySpec.DeploymentSpecs
	if len(deployments) != 1 || len(deployments[0].Spec.Template.Spec.Containers) != 1 {
		c.wrong("the bundle does not have one Deployment with one container")
		return
	}
	pod := deployments[0].Spec.Template.Spec.DeepCopy()
	container := &pod.Containers[0]
	images := []string{container.Image, csv.Annotations["containerImage"]}
	for _, related := range csv.Spec.RelatedImages {
		images = append(images, related.Image)
	}
	for i, variable := range container.Env {
		switch variable.Name {
		case listenerImageVariable:
			images = append(images, variable.Value)
		case namespacesVariable:
			from := variable.ValueFrom
			if from == nil || from.FieldRef == nil || from.FieldRef.FieldPath != targetNamespaces {
				c.wrong("%s does not come from %s", namespacesVariable, targetNamespaces)
			}
			for _, own := range c.s.chart.deployment.Spec.Template.Spec.Containers[0].Env {
				if own.Name == variable.Name {
					container.Env[i] = own
				}
			}
		}
	}
	if images = slices.Compact(images); len(images) != 1 {
		c.wrong("the bundle names several images: %s", strings.Join(images, ", "))
	}
	if c.s.digest != "" && !strings.HasSuffix(container.Image, "@"+c.s.digest) {
		c.wrong("the image %s is not of the digest %s", container.Image, c.s.digest)
	}
	own, err := yaml.Marshal(pod)
	chart, err2 := yaml.Marshal(c.s.chart.deployment.Spec.Template.Spec)
	if err != nil || err2 != nil || !bytes.Equal(own, chart) {
		c.wrong("the pod is not the chart's:\n%s", own)
	}
	modes := 0
	for _, mode := range csv.Spec.InstallModes {
		if mode.Supported {
			modes++
		}
	}
	if modes != 4 {
		c.wrong("the operator supports 4 install modes, and the bundle says %d", modes)
	}
}

// Whether the definitions are the chart's, and each is described.
func (c *checker) checkDefinitions(bundle *manifests.Bundle) {
	own := map[string]apiextensionsv1.CustomResourceDefinitionSpec{}
	for _, one := range bundle.V1CRDs {
		own[one.Name] = one.Spec
	}
	for _, one := range c.s.chart.definitions {
		// As written: defaults and examples within are texts of JSON, whose spaces do not count.
		chart, err := plain(one.Spec)
		bundled, err2 := plain(own[one.Name])
		if err != nil || err2 != nil || !reflect.DeepEqual(chart, bundled) {
			c.wrong("the definition %s is not the chart's", one.Name)
		}
	}
	for _, one := range bundle.CSV.Spec.CustomResourceDefinitions.Owned {
		if one.DisplayName == "" || one.Description == "" {
			c.wrong("Chart.yaml does not describe %s", one.Name)
		}
	}
}
