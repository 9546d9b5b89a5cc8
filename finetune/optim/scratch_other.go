//go:build !unix

package optim

import "fmt"

func mapScratch(string, int) ([]byte, func() error, error) {
	return nil, nil, fmt.Errorf("%w: paged state needs a unix system", ErrConfig)
}
