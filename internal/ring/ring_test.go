package ring

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

const keys = 40_000

func key(i int) [32]byte {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(i))
	return sha256.Sum256(b[:])
}

func names(n int) []string {
	s := make([]string, n)
	for i := range s {
		s[i] = fmt.Sprintf("batcher-%d", i)
	}
	return s
}

func mustNew(t testing.TB, members []string) *Ring {
	t.Helper()
	r, err := New(members)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestGrow is the proof of consistency: from n to n+1 members, about 1/(n+1) of
// the keys move, and every one of them to the new member.
func TestGrow(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 16; n++ {
		before, after := mustNew(t, names(n)), mustNew(t, names(n+1))
		moved := 0
		for i := range keys {
			from, to := before.Owner(key(i)), after.Owner(key(i))
			if from == to {
				continue
			}
			moved++
			if to != n {
				t.Fatalf("%d to %d members: key %d moved from %d to %d, not to the new member", n, n+1, i, from, to)
			}
		}
		within(t, fmt.Sprintf("keys moved from %d to %d members", n, n+1), moved, 1/float64(n+1))
	}
}

// TestShrink: when any member leaves, only its keys move.
func TestShrink(t *testing.T) {
	t.Parallel()
	all := names(5)
	before := mustNew(t, all)
	for gone := range all {
		rest := append(append([]string(nil), all[:gone]...), all[gone+1:]...)
		after := mustNew(t, rest)
		for i := range keys {
			from := before.Owner(key(i))
			if from != gone && rest[after.Owner(key(i))] != all[from] {
				t.Fatalf("member %d left and key %d of member %d moved", gone, i, from)
			}
		}
	}
}

func TestBalance(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 3, 4, 7, 8, 16, 33} {
		r := mustNew(t, names(n))
		counts := make([]int, n)
		for i := range keys {
			counts[r.Owner(key(i))]++
		}
		for m, c := range counts {
			within(t, fmt.Sprintf("keys of member %d of %d", m, n), c, 1/float64(n))
		}
	}
}

// TestEveryWordCounts: keys that differ in one 64-bit word only, and there by a
// small counter, are still spread evenly.
func TestEveryWordCounts(t *testing.T) {
	t.Parallel()
	const n = 4
	r := mustNew(t, names(n))
	for word := range 4 {
		counts := make([]int, n)
		for i := range keys {
			var k [32]byte
			binary.LittleEndian.PutUint64(k[8*word:], uint64(i))
			counts[r.Owner(k)]++
		}
		for m, c := range counts {
			within(t, fmt.Sprintf("keys of member %d that differ in word %d", m, word), c, 1.0/n)
		}
	}
}

// within fails unless got is near p of all keys: five standard deviations of a
// binomial, which the fixed keys pass once and then for good.
func within(t *testing.T, what string, got int, p float64) {
	t.Helper()
	want, slack := p*keys, 5*math.Sqrt(keys*p*(1-p))
	if math.Abs(float64(got)-want) > slack {
		t.Errorf("%s: %d, want %.0f ± %.0f", what, got, want, slack)
	}
}

func TestOrderDoesNotMatter(t *testing.T) {
	t.Parallel()
	members := names(9)
	r := mustNew(t, members)
	shuffled := append([]string(nil), members...)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 5 {
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		s := mustNew(t, shuffled)
		for i := range 2000 {
			if a, b := members[r.Owner(key(i))], shuffled[s.Owner(key(i))]; a != b {
				t.Fatalf("key %d belongs to %s or %s by member order", i, a, b)
			}
		}
	}
}

// TestStable pins owners: a change of the function would move keys between the
// batchers of a running log at an upgrade.
func TestStable(t *testing.T) {
	t.Parallel()
	r := mustNew(t, names(4))
	got := ""
	for i := range 24 {
		got += fmt.Sprint(r.Owner(key(i)))
	}
	if want := "200110010031333113100233"; got != want {
		t.Errorf("owners of the first keys are %s, want %s", got, want)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for name, members := range map[string][]string{
		"no members":    nil,
		"empty name":    {"a", ""},
		"repeated name": {"a", "b", "a"},
	} {
		if _, err := New(members); err == nil {
			t.Errorf("%s: New succeeded", name)
		}
	}
}

func TestOwnerDoesNotAllocate(t *testing.T) {
	r := mustNew(t, names(8))
	k := key(1)
	if n := testing.AllocsPerRun(100, func() { r.Owner(k) }); n != 0 {
		t.Errorf("Owner allocates %v times", n)
	}
}

func BenchmarkOwner(b *testing.B) {
	for _, n := range []int{4, 32} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := mustNew(b, names(n))
			k := key(1)
			for b.Loop() {
				k[0]++
				r.Owner(k)
			}
		})
	}
}
