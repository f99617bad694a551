package entry_test

import (
	"bytes"
	"encoding/hex"
	"testing"

	"filippo.io/sunlight"

	"kiln/entry"
)

func TestExtensionsValid(t *testing.T) {
	t.Parallel()
	for _, c := range readVectors(t).Extensions.Valid {
		got, err := entry.Extensions(c.LeafIndex)
		if err != nil || hex.EncodeToString(got) != c.Hex {
			t.Errorf("index %d: %x, %v, want %s", c.LeafIndex, got, err, c.Hex)
		}
		if len(got) != entry.ExtensionsSize {
			t.Errorf("index %d: %d bytes", c.LeafIndex, len(got))
		}
		if index, err := entry.ParseExtensions(unhex(t, c.Hex)); err != nil || index != c.LeafIndex {
			t.Errorf("%s: index %d, %v, want %d", c.Hex, index, err, c.LeafIndex)
		}
	}
}

func TestExtensionsOutOfRange(t *testing.T) {
	t.Parallel()
	for _, index := range []int64{-1, 1 << 40, 1<<40 + 1, -1 << 63, 1<<63 - 1} {
		if got, err := entry.Extensions(index); err == nil {
			t.Errorf("index %d: %x, want an error", index, got)
		}
	}
}

func TestParseExtensions(t *testing.T) {
	t.Parallel()
	v := readVectors(t).Extensions
	for _, c := range []extensionVector{
		v.Skip,
		{Hex: "0000050000000009" + "07000177", LeafIndex: 9, Why: "unknown type after"},
		{Hex: "070000" + "080000" + "0000050000000009", LeafIndex: 9, Why: "unknown types without data"},
	} {
		if index, err := entry.ParseExtensions(unhex(t, c.Hex)); err != nil || index != c.LeafIndex {
			t.Errorf("%s (%s): index %d, %v, want %d", c.Hex, c.Why, index, err, c.LeafIndex)
		}
	}
	for _, c := range append(v.Bad,
		extensionVector{Hex: "0000050000000001" + "0000050000000001", Why: "leaf_index twice"},
		extensionVector{Hex: "0000050000000001" + "0000050000000002", Why: "two leaf_index"},
		extensionVector{Hex: "07000177" + "0000050000000001" + "07000177", Why: "unknown type twice"},
		extensionVector{Hex: "0000050000000001" + "00", Why: "trailing byte"},
		extensionVector{Hex: "0000050000000001" + "0700", Why: "trailing half header"},
		extensionVector{Hex: "0000050000000001" + "07ffff00", Why: "unknown type longer than the rest"},
		extensionVector{Hex: "000006000000000001", Why: "leaf_index of 6 bytes"},
		extensionVector{Hex: "000004" + "00000001", Why: "leaf_index of 4 bytes"},
		extensionVector{Hex: "000000", Why: "empty leaf_index"},
	) {
		if index, err := entry.ParseExtensions(unhex(t, c.Hex)); err == nil {
			t.Errorf("%s (%s): index %d, want an error", c.Hex, c.Why, index)
		}
	}
}

func FuzzParseExtensions(f *testing.F) {
	v := readVectors(f).Extensions
	for _, c := range append(append(v.Valid, v.Bad...), v.Skip) {
		f.Add(unhex(f, c.Hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		index, err := entry.ParseExtensions(b)
		if err != nil {
			return
		}
		again, err := entry.Extensions(index)
		if err != nil {
			t.Fatalf("parsed index %d does not encode: %v", index, err)
		}
		if len(b) == entry.ExtensionsSize && !bytes.Equal(again, b) {
			t.Fatalf("%x is %d, which encodes to %x", b, index, again)
		}
		// Sunlight stops at leaf_index, so it takes all that is taken here.
		e, err := sunlight.ParseExtensions(b)
		if err != nil || e.LeafIndex != index {
			t.Fatalf("%x is %d, sunlight says %d, %v", b, index, e.LeafIndex, err)
		}
	})
}
