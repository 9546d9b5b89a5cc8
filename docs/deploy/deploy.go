// Package deploy holds no code: its tests check the files of docs/deploy against the committed schemas of Compose and
// Kubernetes, against each other, and against the metrics that weft exposes.
package deploy
