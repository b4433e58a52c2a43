//go:build tools

// Package tools pins etcd, which the local test cluster runs.
//
// The import is never compiled as part of this module; it exists so that
// "go mod tidy" keeps every dependency of the command built from it.
package tools

import _ "go.etcd.io/etcd/server/v3"
