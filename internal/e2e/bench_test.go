package e2e_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kiln/internal/config"
	"kiln/internal/servers"
	"kiln/testlogs"
)

// BenchmarkAddChain submits new certificates by HTTP, from as many clients at a
// time as the name says, to a whole log in this process with its default period.
// Certificates are made beforehand; clients and their checks of each SCT share
// the machine with the log.
func BenchmarkAddChain(b *testing.B) {
	for name, clients := range map[string]int{"clients=1": 1, "clients=64": 64, "clients=512": 512} {
		b.Run(name, func(b *testing.B) { benchmarkAddChain(b, clients, testlogs.Options{}) })
	}
}

// BenchmarkAddChainS3 is BenchmarkAddChain with storage and lock on an S3 server
// that takes 30 ms longer for every request.
func BenchmarkAddChainS3(b *testing.B) {
	for name, clients := range map[string]int{"clients=64": 64, "clients=512": 512} {
		b.Run(name, func(b *testing.B) {
			benchmarkAddChain(b, clients, testlogs.Options{Backend: testlogs.S3, Through: func(endpoint string) string {
				proxy, err := servers.NewProxy(context.Background(), endpoint)
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { _ = proxy.Close() })
				proxy.SetLatency(30 * time.Millisecond)
				return proxy.Endpoint
			}})
		})
	}
}

func benchmarkAddChain(b *testing.B, clients int, opts testlogs.Options) {
	opts.Configure = func(c *config.Log) {
		c.Period = config.DefaultPeriod
		if opts.Backend != testlogs.Embedded {
			c.Period = config.DefaultPeriodS3
		}
	}
	log := testlogs.Start(b, opts)
	client := log.Client()
	chains := make([]testlogs.Chain, b.N)
	for i := range chains {
		var err error
		if chains[i], err = log.CA.Precert(testlogs.LeafOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	took := make([]time.Duration, b.N)
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range clients {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
				began := time.Now()
				if _, err := client.Submit(context.Background(), chains[i]); err != nil {
					b.Error(err)
					return
				}
				took[i] = time.Since(began)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "SCTs/s")
	b.ReportMetric(float64(took[b.N/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[b.N*99/100].Microseconds())/1000, "p99-ms")
}
