package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Path is a file or folder. In the file it may be relative to the file, or
// begin with ~/.
type Path string

// Duration is a time.Duration that is written as 30s, 10m or 24h.
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("%q is not a duration; write it as 30s, 10m or 24h", text)
	}
	*d = Duration(parsed)
	return nil
}

// String writes the duration as it is read.
func (d Duration) String() string { return time.Duration(d).String() }

// Size is a number of bytes that is written as 4MiB or 50GB.
type Size int64

var units = []struct {
	suffix string
	bytes  int64
}{
	{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"tib", 1 << 40},
	{"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"tb", 1e12}, {"b", 1}, {"", 1},
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(text []byte) error {
	value := strings.ToLower(strings.TrimSpace(string(text)))
	for _, unit := range units {
		number, ok := strings.CutSuffix(value, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || n < 0 || n*float64(unit.bytes) > 1<<60 {
			break
		}
		*s = Size(n * float64(unit.bytes))
		return nil
	}
	return fmt.Errorf("%q is not a size; write it as 4MiB or 50GB", text)
}
