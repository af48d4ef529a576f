package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"
	"time"
)

// Packs programs into an image, as `docker save` writes it, with neither daemon nor registry.
// The first file is what the image runs.
func runImage() {
	name := flag.String("name", "", "name and tag of the image")
	output := flag.String("output", "", "tar to write")
	user := flag.String("user", "65532:65532", "user and group that it runs as")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: image -name NAME:TAG -output TAR [-user UID:GID] FILE[:PATH]...")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *name == "" || *output == "" || flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}

	var layer bytes.Buffer
	var entrypoint string
	files := tar.NewWriter(&layer)
	// Programs expect a /tmp, also where nothing is mounted there.
	check(files.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}))
	made := map[string]bool{"tmp": true}
	for _, argument := range flag.Args() {
		source, target, found := strings.Cut(argument, ":")
		if !found {
			target = "/" + path.Base(source)
		}
		if entrypoint == "" {
			entrypoint = target
		}
		inside := strings.TrimPrefix(path.Clean(target), "/")
		for at := 0; ; {
			next := strings.IndexByte(inside[at:], '/')
			if next < 0 {
				break
			}
			at += next + 1
			if folder := inside[:at-1]; !made[folder] {
				made[folder] = true
				check(files.WriteHeader(&tar.Header{Name: folder + "/", Typeflag: tar.TypeDir, Mode: 0o755}))
			}
		}
		info, err := os.Stat(source)
		check(err)
		content, err := os.ReadFile(source)
		check(err)
		add(files, inside, int64(info.Mode().Perm()), content)
	}
	check(files.Close())

	digest := fmt.Sprintf("%x", sha256.Sum256(layer.Bytes()))
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"created":      time.Unix(0, 0).UTC(),
		"config":       map[string]any{"User": *user, "Entrypoint": []string{entrypoint}, "Env": []string{"PATH=/"}},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest}},
		"history":      []any{map[string]any{"created": time.Unix(0, 0).UTC()}},
	})
	check(err)
	configName := fmt.Sprintf("%x.json", sha256.Sum256(config))
	manifest, err := json.Marshal([]any{map[string]any{
		"Config": configName, "RepoTags": []string{*name}, "Layers": []string{digest + "/layer.tar"},
	}})
	check(err)

	file, err := os.Create(*output + ".partial")
	check(err)
	image := tar.NewWriter(file)
	add(image, configName, 0o644, config)
	add(image, digest+"/layer.tar", 0o644, layer.Bytes())
	add(image, "manifest.json", 0o644, manifest)
	check(image.Close())
	check(file.Close())
	check(os.Rename(*output+".partial", *output))
}

func add(to *tar.Writer, name string, mode int64, content []byte) {
	check(to.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(content))}))
	_, err := io.Copy(to, bytes.NewReader(content))
	check(err)
}
