package opa

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"

	"github.com/open-policy-agent/opa/v1/logging"
	"go.uber.org/zap"
)

// zapped is the program's log as OPA writes to it. OPA's debugging shows headers
// and answers in full, in which there can be secrets, so there is none.
type zapped struct {
	log    *zap.Logger
	fields map[string]any
}

func (z zapped) write(write func(string, ...zap.Field), format string, args []any) {
	message := format
	if len(args) > 0 {
		message = fmt.Sprintf(format, args...)
	}
	fields := make([]zap.Field, 0, len(z.fields))
	for _, key := range slices.Sorted(maps.Keys(z.fields)) {
		value := z.fields[key]
		if err, ok := value.(error); ok {
			value = err.Error()
		}
		if text, ok := value.(string); ok {
			value = redacted(text)
		}
		fields = append(fields, zap.Any(key, value))
	}
	write(redacted(message), fields...)
}

var signedURL = regexp.MustCompile(`(https?://[^\s"?]*)\?[^\s"]*`)

// redacted leaves out the queries of URLs: storage services sign by them.
func redacted(text string) string { return signedURL.ReplaceAllString(text, "$1?…") }

func (z zapped) Debug(string, ...any)             {}
func (z zapped) Info(format string, args ...any)  { z.write(z.log.Info, format, args) }
func (z zapped) Warn(format string, args ...any)  { z.write(z.log.Warn, format, args) }
func (z zapped) Error(format string, args ...any) { z.write(z.log.Error, format, args) }

func (z zapped) WithFields(fields map[string]any) logging.Logger {
	all := maps.Clone(z.fields)
	if all == nil {
		all = map[string]any{}
	}
	maps.Copy(all, fields)
	return zapped{z.log, all}
}

// WithContext implements logging.LoggerWithContext.
func (z zapped) WithContext(context.Context) logging.Logger { return z }

func (z zapped) GetLevel() logging.Level { return logging.Info }
func (z zapped) SetLevel(logging.Level)  {}
