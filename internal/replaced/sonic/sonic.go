// Package sonic takes the place of bytedance/sonic, which gin imports under a build tag that weft is not built with.
package sonic
