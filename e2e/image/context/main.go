// Lists what an image is built from: the files that `COPY . .` takes, by the rules and with the code of
// BuildKit (github.com/moby/patternmatcher). Their names go to standard output, each ended by a NUL.
//
//	context FOLDER
package main

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: context FOLDER")
		os.Exit(2)
	}
	if err := list(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "context:", err)
		os.Exit(1)
	}
}

func list(root string) error {
	file, err := os.Open(filepath.Join(root, ".dockerignore"))
	if err != nil {
		return err
	}
	defer file.Close()
	patterns, err := ignorefile.ReadAll(file)
	if err != nil {
		return err
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	walk := func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil || name == "." {
			return err
		}
		ignored, err := matcher.MatchesOrParentMatches(name)
		if err != nil {
			return err
		}
		switch {
		case ignored && entry.IsDir() && !below(matcher, name):
			return fs.SkipDir
		case ignored || entry.IsDir():
			return nil
		}
		_, err = out.WriteString(filepath.ToSlash(name) + "\x00")
		return err
	}
	if err := filepath.WalkDir(root, walk); err != nil {
		return err
	}
	return out.Flush()
}

// Whether a pattern takes up something again in a folder that is ignored. Only such folders are entered,
// so one with a wildcard takes up nothing in them.
func below(matcher *patternmatcher.PatternMatcher, folder string) bool {
	for _, pattern := range matcher.Patterns() {
		if pattern.Exclusion() && strings.HasPrefix(pattern.String()+"/", folder+"/") {
			return true
		}
	}
	return false
}
