//go:build tools

// Package programs names what tests/k8s/build.sh compiles of etcd: 3.7, because the API server streams lists (WatchList) only from an
// etcd that reports its progress on request, which Debian's is too old for.
package programs

import (
	_ "go.etcd.io/etcd/server/v3"
)
