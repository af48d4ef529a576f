package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Name of the file that builds the bundle's image.
const dockerfile = "bundle.Dockerfile"

func csvFile(s *sources) string { return "manifests/" + s.meta.Name + ".clusterserviceversion.yaml" }

// What metadata/annotations.yaml and the labels of the image both say.
func annotations(s *sources) map[string]string {
	const prefix = "operators.operatorframework.io.bundle."
	return map[string]string{
		prefix + "mediatype.v1": "registry+v1",
		prefix + "manifests.v1": "manifests/",
		prefix + "metadata.v1":  "metadata/",
		prefix + "package.v1":   s.meta.Name,
		// OLM's word for what comes before a stable version. While resources are v1alpha1, there is no other.
		prefix + "channels.v1":        "candidate",
		prefix + "channel.default.v1": "candidate",
	}
}

// Writes the bundle into a folder, which must be empty or not there.
func write(s *sources, folder string) error {
	csv, err := makeCSV(s)
	if err != nil {
		return err
	}
	if entries, err := os.ReadDir(folder); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is not empty", folder)
	}
	files := map[string]any{
		csvFile(s):                  csv,
		"metadata/annotations.yaml": map[string]any{"annotations": annotations(s)},
	}
	for _, one := range s.chart.definitions {
		kept := &apiextensionsv1.CustomResourceDefinition{TypeMeta: one.TypeMeta, Spec: one.Spec}
		kept.Name = one.Name
		files[fmt.Sprintf("manifests/%s_%s.yaml", one.Spec.Group, one.Spec.Names.Plural)] = kept
	}
	for _, role := range s.chart.rolesOfUsers() {
		// In the chart, the name of the namespace tells several installations apart.
		name := strings.TrimPrefix(role.Name, s.namespace()+"-")
		kept := &rbacv1.ClusterRole{TypeMeta: role.TypeMeta, Rules: role.Rules}
		kept.Name, kept.Labels = name, labels(role.Labels)
		files["manifests/"+name+"_rbac.authorization.k8s.io_v1_clusterrole.yaml"] = kept
	}
	if service := s.chart.service; service != nil {
		kept := &corev1.Service{TypeMeta: service.TypeMeta, Spec: service.Spec}
		kept.ObjectMeta = metav1.ObjectMeta{Name: service.Name, Labels: labels(service.Labels)}
		files["manifests/"+service.Name+"_v1_service.yaml"] = kept
	}
	for path, object := range files {
		text, err := toYAML(object)
		if err != nil {
			return err
		}
		if err := put(filepath.Join(folder, path), text); err != nil {
			return err
		}
	}
	return put(filepath.Join(folder, dockerfile), imageFile(annotations(s)))
}

func put(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

func imageFile(labels map[string]string) []byte {
	text := "# The bundle as an image, which catalogues name: docker build -f bundle.Dockerfile .\nFROM scratch\n"
	for _, label := range slices.Sorted(maps.Keys(labels)) {
		text += fmt.Sprintf("LABEL %s=%s\n", label, labels[label])
	}
	return []byte(text + "COPY manifests /manifests/\nCOPY metadata /metadata/\n")
}

func toYAML(object any) ([]byte, error) {
	content, err := plain(object)
	if err != nil {
		return nil, err
	}
	return yaml.Marshal(content)
}

// An object as it is written, without the empty parts that Go's types of Kubernetes have.
func plain(object any) (map[string]any, error) {
	text, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	var content map[string]any
	if err := json.Unmarshal(text, &content); err != nil {
		return nil, err
	}
	delete(content, "status")
	return prune(content), nil
}

func prune(content map[string]any) map[string]any {
	for key, value := range content {
		switch value := value.(type) {
		case nil:
			delete(content, key)
		case map[string]any:
			prune(value)
		case []any:
			for _, one := range value {
				if inner, is := one.(map[string]any); is {
					prune(inner)
				}
			}
		}
	}
	return content
}
