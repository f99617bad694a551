package fsck

import "encoding/json"

// Seal gives the JSON of a state file its checksum.
func Seal(data []byte) ([]byte, error) {
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, err
	}
	var err error
	if s.Sum, err = s.sum(); err != nil {
		return nil, err
	}
	return json.Marshal(s)
}
