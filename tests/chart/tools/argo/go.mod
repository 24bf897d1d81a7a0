module warmfleet.dev/argo

go 1.25

require github.com/argoproj/argo-cd/v3 v3.2.0
