module observers/e2e/image/context

go 1.24.0

require github.com/moby/patternmatcher v0.6.1
