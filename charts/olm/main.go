// Makes the bundle for OLM (registry+v1) of the chart, and checks it.
//
//	olm-bundle HELM REPOSITORY FOLDER [DIGEST]
//
// FOLDER gets `manifests`, `metadata` and `bundle.Dockerfile`. DIGEST is that of the image, as sha256:…; without it, the
// bundle names the image by its tag.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) != 4 && len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: olm-bundle HELM REPOSITORY FOLDER [DIGEST]")
		os.Exit(2)
	}
	digest := ""
	if len(os.Args) == 5 {
		digest = os.Args[4]
	}
	problems, err := run(os.Args[1], os.Args[2], os.Args[3], digest)
	if err != nil {
		problems = append(problems, err.Error())
	}
	for _, problem := range problems {
		fmt.Fprintln(os.Stderr, "olm-bundle:", problem)
	}
	if len(problems) > 0 {
		os.Exit(1)
	}
}

func run(helm, root, folder, digest string) ([]string, error) {
	s, err := read(root, helm, digest)
	if err != nil {
		return nil, err
	}
	if err := write(s, folder); err != nil {
		return nil, err
	}
	c, err := newChecker(s)
	if err != nil {
		return nil, err
	}
	return c.check(folder), nil
}
