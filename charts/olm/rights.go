package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	operatorsv1alpha1 "github.com/operator-framework/api/pkg/operators/v1alpha1"
	rbacv1 "k8s.io/api/rbac/v1"
)

// One verb of one resource, perhaps of a certain name, or of one path.
type right struct{ group, resource, name, path, verb string }

func (r right) String() string {
	if r.path != "" {
		return fmt.Sprintf("path %s: %s", r.path, r.verb)
	}
	group, named := r.group, ""
	if group == "" {
		group = "core"
	}
	if r.name != "" {
		named = " named " + r.name
	}
	return fmt.Sprintf("%s %s%s: %s", group, r.resource, named, r.verb)
}

type rights map[right]bool

func rightsOf(roles ...[]rbacv1.PolicyRule) rights {
	all := rights{}
	for _, rules := range roles {
		for _, rule := range rules {
			resourceNames := rule.ResourceNames
			if len(resourceNames) == 0 {
				resourceNames = []string{""}
			}
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, name := range resourceNames {
						for _, verb := range rule.Verbs {
							all[right{group: group, resource: resource, name: name, verb: verb}] = true
						}
					}
				}
			}
			for _, path := range rule.NonResourceURLs {
				for _, verb := range rule.Verbs {
					all[right{path: path, verb: verb}] = true
				}
			}
		}
	}
	return all
}

// What is in these and not in others.
func (r rights) without(others rights) []string {
	var all []string
	for one := range r {
		if !others[one] {
			all = append(all, one.String())
		}
	}
	slices.Sort(all)
	return all
}

func (r rights) and(others rights) rights {
	all := maps.Clone(r)
	maps.Copy(all, others)
	return all
}

// What OLM adds to `permissions` when it gives them in the whole cluster (ensureSingletonRBAC of OLM 0,
// BundleCSVClusterPermissionsGenerator of OLM 1).
var seeNamespaces = rightsOf([]rbacv1.PolicyRule{{
	APIGroups: []string{""}, Resources: []string{"namespaces"}, Verbs: []string{"get", "list", "watch"},
}})

// The rights that a section of the golden list has, which the API server itself told of the chart's roles.
func goldenRights(text, title, where string) (rights, error) {
	_, text, found := strings.Cut(text, "# "+title+"\n")
	if found {
		text, _, _ = strings.Cut(text, "\n# ")
		_, text, found = strings.Cut(text, "## In "+where+"\n")
	}
	if !found {
		return nil, fmt.Errorf("the golden list has no section %q in %q", title, where)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	all := rights{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line == "none" {
			continue
		}
		what, verbs, is := strings.Cut(line, ": ")
		what, name, _ := strings.Cut(what, " named ")
		group, resource, parts := strings.Cut(what, " ")
		if !is || !parts {
			return nil, fmt.Errorf("the golden list has a line that is no right: %s", line)
		}
		if group == "core" {
			group = ""
		}
		for _, verb := range strings.Fields(verbs) {
			all[right{group: group, resource: resource, name: name, verb: verb}] = true
		}
	}
	return all, nil
}

// What an account gets by OLM: in the namespaces of its OperatorGroup, and in the whole cluster.
func given(csv *operatorsv1alpha1.ClusterServiceVersion, account string) (scoped, everywhere rights) {
	strategy := csv.Spec.InstallStrategy.StrategySpec
	of := func(all []operatorsv1alpha1.StrategyDeploymentPermissions) rights {
		own := rights{}
		for _, one := range all {
			if one.ServiceAccountName == account {
				own = own.and(rightsOf(one.Rules))
			}
		}
		return own
	}
	return of(strategy.Permissions), of(strategy.ClusterPermissions)
}

// Whether the bundle gives what the chart gives, no more and no less: to an operator of its own namespace, and to one of
// all namespaces.
func (c *checker) checkRights(csv *operatorsv1alpha1.ClusterServiceVersion) {
	account := c.s.chart.deployment.Spec.Template.Spec.ServiceAccountName
	scoped, everywhere := given(csv, account)
	ofRoles, ofClusterRoles := c.chartRights(c.s.chart, account)
	c.equal("permissions, and the chart's Roles", scoped, ofRoles)
	c.equal("clusterPermissions, and the chart's ClusterRoles", everywhere, ofClusterRoles)

	lifted := scoped.and(everywhere).and(seeNamespaces)
	ofRoles, ofClusterRoles = c.chartRights(c.everywhere, account)
	c.equal("permissions in all namespaces, and the chart's rights there", lifted, ofRoles.and(ofClusterRoles))

	for _, one := range []struct {
		title string
		where []string
		has   rights
	}{
		{"The operator of one namespace", []string{"its own namespace", "a namespace that it serves"}, scoped.and(everywhere)},
		{"The operator of all namespaces", []string{"its own namespace"}, lifted},
	} {
		golden := rights{}
		for _, where := range one.where {
			part, err := goldenRights(c.golden, one.title, where)
			if err != nil {
				c.wrong("%v", err)
			}
			golden = golden.and(part)
		}
		c.equal("permissions, and the golden list: "+one.title, one.has, golden)
	}
}

// What the chart gives to an account: by RoleBindings, and by ClusterRoleBindings.
func (c *checker) chartRights(chart *rendering, account string) (scoped, everywhere rights) {
	rules, err := chart.rulesOf(account)
	if err != nil {
		c.wrong("%v", err)
	}
	clusterRules, err := chart.clusterRulesOf(account)
	if err != nil {
		c.wrong("%v", err)
	}
	return rightsOf(rules...), rightsOf(clusterRules...)
}

func (c *checker) equal(what string, bundle, chart rights) {
	for _, one := range bundle.without(chart) {
		c.wrong("%s: the bundle gives more: %s", what, one)
	}
	for _, one := range chart.without(bundle) {
		c.wrong("%s: the bundle lacks: %s", what, one)
	}
}
