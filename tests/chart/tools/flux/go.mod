module warmfleet.dev/flux

go 1.25

require github.com/fluxcd/kustomize-controller v1.9.1
