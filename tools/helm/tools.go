//go:build tools

// Package tools pins helm, which the local test cluster runs.
//
// The import is never compiled as part of this module; it exists so that
// "go mod tidy" keeps every dependency of the command built from it.
package tools

import _ "helm.sh/helm/v4/cmd/helm"
