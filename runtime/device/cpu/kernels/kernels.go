package kernels

/*
#cgo CFLAGS: -std=c11 -O3 -Wall -Werror -Wno-psabi
#cgo asan CFLAGS: -O1
#cgo LDFLAGS: -lm -lpthread
*/
import "C"
