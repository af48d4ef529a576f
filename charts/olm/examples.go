package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

// Judges objects of one kind as the API server does: by the schema, by its rules, and no field may be unknown.
type judge struct {
	schema    *structural.Structural
	validator validation.SchemaValidator
	rules     *cel.Validator
}

// By apiVersion and kind.
func newJudges(definitions []*apiextensionsv1.CustomResourceDefinition) (map[string]*judge, error) {
	judges := map[string]*judge{}
	for _, definition := range definitions {
		inner := &apiextensions.CustomResourceDefinition{}
		if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(
			definition, inner, nil); err != nil {
			return nil, err
		}
		for _, version := range inner.Spec.Versions {
			given := version.Schema
			if given == nil {
				// All versions have the same one.
				given = inner.Spec.Validation
			}
			schema, err := structural.NewStructural(given.OpenAPIV3Schema)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", definition.Name, err)
			}
			validator, _, err := validation.NewSchemaValidator(given.OpenAPIV3Schema)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", definition.Name, err)
			}
			judges[inner.Spec.Group+"/"+version.Name+" "+inner.Spec.Names.Kind] = &judge{
				schema:    schema,
				validator: validator,
				rules:     cel.NewValidator(schema, true, celconfig.PerCallLimit),
			}
		}
	}
	return judges, nil
}

func (j *judge) judge(object map[string]any) []string {
	var all []string
	errors := validation.ValidateCustomResource(nil, object, j.validator)
	broken, _ := j.rules.Validate(context.Background(), field.NewPath(""), j.schema, object, nil, math.MaxInt64)
	for _, one := range append(errors, broken...) {
		all = append(all, one.Error())
	}
	pruned := pruning.PruneWithOptions(object, j.schema, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	for _, path := range pruned {
		all = append(all, "unknown field "+path)
	}
	return all
}

// Whether the API server would take each example.
func (c *checker) checkExamples(text string) {
	var all []map[string]any
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		c.wrong("alm-examples: %v", err)
		return
	}
	for _, example := range all {
		kind := fmt.Sprintf("%v %v", example["apiVersion"], example["kind"])
		judge, known := c.judges[kind]
		if !known {
			c.wrong("alm-examples: the bundle defines no %s", kind)
			continue
		}
		meta, _ := example["metadata"].(map[string]any)
		for _, problem := range judge.judge(example) {
			c.wrong("alm-examples: %v: %s", meta["name"], problem)
		}
	}
}
