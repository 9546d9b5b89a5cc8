package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A segment is magic and then frames: length of the body and CRC-32C of length and body, 4 bytes each, little-endian,
// then the body: the kind, a nonce, the sealed JSON.
const (
	magic       = "weftcap1"
	frameHeader = 8
	nonceLength = 12
	tagLength   = 16
	minBody     = 1 + nonceLength + tagLength
	// maxBody limits one record.
	maxBody = 64 << 20
)

// kind says what a frame holds.
type kind byte

const (
	kindRecord   kind = 'r'
	kindFeedback kind = 'f'
)

// errTorn says that a segment ends, or is damaged, before a frame does.
var errTorn = errors.New("the segment does not hold a whole record here")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendFrame appends body as a frame.
func appendFrame(b, body []byte) []byte {
	start := len(b)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = append(b, body...)
	binary.LittleEndian.PutUint32(b[start+4:], checksum(b[start:]))
	return b
}

func checksum(frame []byte) uint32 {
	sum := crc32.Update(0, castagnoli, frame[:4])
	return crc32.Update(sum, castagnoli, frame[frameHeader:])
}

// readFrame reads the frame at a position of a segment that has size bytes, and returns its body: errTorn where there
// is no whole one.
func readFrame(r io.ReaderAt, at, size int64) (body []byte, err error) {
	if at < int64(len(magic)) || size-at < frameHeader+minBody {
		return nil, errTorn
	}
	var head [frameHeader]byte
	if err := readFull(r, head[:], at); err != nil {
		return nil, err
	}
	n := int64(binary.LittleEndian.Uint32(head[:]))
	if n < minBody || n > maxBody || n > size-at-frameHeader {
		return nil, errTorn
	}
	frame := make([]byte, frameHeader+n)
	if err := readFull(r, frame, at); err != nil {
		return nil, err
	}
	if checksum(frame) != binary.LittleEndian.Uint32(frame[4:]) {
		return nil, errTorn
	}
	return frame[frameHeader:], nil
}

func readFull(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return errTorn
	}
	return err
}

// scan calls f for each whole frame from a position on, and returns where the last one ends.
func scan(r io.ReaderAt, at, size int64, f func(at int64, body []byte) error) (end int64, err error) {
	for at < size {
		body, err := readFrame(r, at, size)
		if errors.Is(err, errTorn) {
			return at, nil
		}
		if err == nil {
			err = f(at, body)
		}
		if err != nil {
			return at, fmt.Errorf("at byte %d: %w", at, err)
		}
		at += frameHeader + int64(len(body))
	}
	return at, nil
}
