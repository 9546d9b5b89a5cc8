package load

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"sort"
)

// AdapterChoice says which adapter each request asks for: with a popularity that follows a power law it is the workload
// of S-LoRA (arXiv:2311.03285).
type AdapterChoice struct {
	Adapters int // how many; 0: all requests ask for Config.Model
	// a pattern with one verb for the number from 0 on, as bench-%04d; "": the names that the server lists with a
	// parent
	Names      string
	Zipf       float64 // adapter i gets requests in proportion to 1/(i+1)^Zipf; 0: all get the same number
	RoundRobin bool    // in turn instead of at random
	LlamaCpp   bool    // for llama-server: the adapter's number goes into the field lora, and the model stays
}

// MaxAdapters is the limit of AdapterChoice.Adapters.
const MaxAdapters = 100_000

func (m *AdapterChoice) check() error {
	switch {
	case m.Adapters < 0 || m.Adapters > MaxAdapters:
		return fmt.Errorf("%w: %d adapters: 0 to %d", ErrConfig, m.Adapters, MaxAdapters)
	case !(m.Zipf >= 0) || m.Zipf > 100:
		return fmt.Errorf("%w: exponent %v of the adapters' popularity: 0 to 100", ErrConfig, m.Zipf)
	case m.Names != "" && fmt.Sprintf(m.Names, 0) == fmt.Sprintf(m.Names, 1), m.Names != "" &&
		slices.Contains([]rune(fmt.Sprintf(m.Names, 0)), '!'):
		return fmt.Errorf("%w: pattern %q of adapters' names: write it with one %%d", ErrConfig, m.Names)
	}
	return nil
}

// popularity returns the cumulative probabilities of the adapters.
func (m *AdapterChoice) popularity() []float64 {
	sums := make([]float64, m.Adapters)
	total := 0.0
	for i := range sums {
		total += math.Pow(float64(i+1), -m.Zipf)
		sums[i] = total
	}
	return sums
}

// listed is an entry of /v1/models.
type listed struct {
	ID     string  `json:"id"`
	Parent *string `json:"parent"`
}

// models lists what a key may use.
func (c *client) models(ctx context.Context, key string) ([]listed, error) {
	var models struct {
		Data []listed `json:"data"`
	}
	if err := c.call(ctx, key, http.MethodGet, "/models", nil, &models); err != nil {
		return nil, err
	}
	if len(models.Data) == 0 {
		return nil, fmt.Errorf("%s lists no model", c.url)
	}
	return models.Data, nil
}

// findAdapters fills c.adapters, the names for each key, and c.popularity.
func (c *client) findAdapters(ctx context.Context) error {
	m := &c.cfg.Choice
	if m.Adapters == 0 {
		return nil
	}
	c.popularity = m.popularity()
	c.adapters = make([][]string, len(c.keys))
	for k, key := range c.keys {
		var names []string
		if m.Names != "" || m.LlamaCpp {
			for i := range m.Adapters {
				names = append(names, fmt.Sprintf(cmp.Or(m.Names, "%d"), i))
			}
		} else {
			all, err := c.models(ctx, key)
			if err != nil {
				return err
			}
			for _, l := range all {
				if l.Parent != nil && *l.Parent != "" {
					names = append(names, l.ID)
				}
			}
			if len(names) < m.Adapters {
				return fmt.Errorf("%w: %s lists %d adapters, %d are needed", ErrConfig, c.url, len(names), m.Adapters)
			}
		}
		c.adapters[k] = names[:m.Adapters]
	}
	return nil
}

// adapter returns the number of the adapter of request i, -1 for none.
func (c *client) adapter(i int) int {
	m := &c.cfg.Choice
	switch {
	case m.Adapters == 0:
		return -1
	case m.RoundRobin:
		return i % m.Adapters
	}
	at := rand.New(rand.NewPCG(c.cfg.Seed, uint64(i)+2<<32)).Float64() * c.popularity[m.Adapters-1]
	return min(sort.SearchFloat64s(c.popularity, at), m.Adapters-1)
}

// gap returns the time to the next arrival in seconds, gamma distributed with the mean 1/rate and the coefficient of
// variation cv; 1 gives a Poisson process.
func gap(rng *rand.Rand, rate, cv float64) float64 {
	if cv == 1 {
		return rng.ExpFloat64() / rate
	}
	return gamma(rng, 1/(cv*cv)) * cv * cv / rate
}

// gamma draws from the gamma distribution with the given shape and scale 1 (Marsaglia and Tsang 2000; shapes below 1 by
// their boost).
func gamma(rng *rand.Rand, shape float64) float64 {
	if shape < 1 {
		return gamma(rng, shape+1) * math.Pow(rng.Float64(), 1/shape)
	}
	d := shape - 1.0/3
	c := 1 / math.Sqrt(9*d)
	for {
		x := rng.NormFloat64()
		v := 1 + c*x
		if v <= 0 {
			continue
		}
		v = v * v * v
		if math.Log(rng.Float64()) < x*x/2+d-d*v+d*math.Log(v) {
			return d * v
		}
	}
}

// between returns a random length in [low, high], or low where high is 0.
func between(rng *rand.Rand, low, high int) int {
	if high <= low {
		return low
	}
	return low + rng.IntN(high-low+1)
}
