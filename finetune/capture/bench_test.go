package capture

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// BenchmarkRecord measures one record of 2 KiB from Put to the disk, in batches as a server with 16 streams has them.
// Its figure is in docs/nightly.md.
func BenchmarkRecord(b *testing.B) {
	s := setup{b.TempDir()}.open(b, func(o *Options) { o.Delay = 50 * time.Millisecond })
	text := strings.Repeat("An ordinary sentence of a chat, with a number such as 17. ", 18)
	run := fmt.Sprint(b.N)
	b.ReportAllocs()
	b.ResetTimer()
	start := cpuTime()
	for i := range b.N {
		r := record(fmt.Sprint(run, "-", i), fmt.Sprint("user", i%100), text, text)
		for !s.Put(r) {
			time.Sleep(time.Millisecond)
		}
		if i%16 == 15 {
			if err := s.flush(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := s.flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64((cpuTime()-start).Microseconds())/float64(b.N), "cpu-µs/record")
}
