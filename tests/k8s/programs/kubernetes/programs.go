//go:build tools

// Package programs names what tests/k8s/build.sh compiles of Kubernetes, so that go.mod and go.sum hold it to one release.
//
// k8s.io/kubernetes requires its staging modules at v0.0.0. Each is replaced by the version published with the release, v0.36.1
// for v1.36.1. To move to another release, change those versions in go.mod and run `go mod tidy`.
package programs

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-proxy"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kubelet"
	_ "k8s.io/kubernetes/test/e2e"
	_ "k8s.io/kubernetes/test/images/agnhost"
)
