package openpgp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence/internal/strictjson"
	"github.com/trustgate/trustgate/oci"
)

const (
	// maxExtensionBody bounds the answer of the signatures extension, in bytes.
	maxExtensionBody = 16 << 20
	// maxExtensionItems bounds its list before the collector's own limit.
	maxExtensionItems = 1024
)

// Extension reads the signatures that a registry serves itself, under
// /extensions/v2/<repository>/signatures/<digest>. fetch returns the body of
// that answer, or an error that matches oci.ErrNotFound when there is none.
//
// https://github.com/containers/image/blob/main/docs/signature-protocols.md
func Extension(fetch func(ctx context.Context, repository oci.Reference, d digest.Digest) ([]byte, error)) Store {
	return extension(fetch)
}

type extension func(context.Context, oci.Reference, digest.Digest) ([]byte, error)

func (fetch extension) Signatures(ctx context.Context, repository oci.Reference, d digest.Digest) ([]Found, error) {
	body, err := fetch(ctx, repository, d)
	if errors.Is(err, oci.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("asking %s for the signatures of %s: %w", repository.Registry(), d, err)
	}
	found, err := parseExtension(body)
	if err != nil {
		return nil, fmt.Errorf("the signatures extension of %s: %w", repository.Registry(), err)
	}
	return found, nil
}

// parseExtension takes the entries that the protocol asks to be taken and
// passes over the others.
func parseExtension(body []byte) ([]Found, error) {
	if len(body) > maxExtensionBody {
		return nil, fmt.Errorf("its answer has more than %d bytes", maxExtensionBody)
	}
	members, err := strictjson.Object(body)
	if err != nil {
		return nil, fmt.Errorf("its answer: %w", err)
	}
	var list []json.RawMessage
	if raw, ok := members["signatures"]; !ok {
		return nil, errors.New("its answer has no list of signatures")
	} else if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("its list of signatures: %w", err)
	}
	if len(list) > maxExtensionItems {
		return nil, fmt.Errorf("it lists %d signatures, more than %d", len(list), maxExtensionItems)
	}
	var found []Found
	for i, raw := range list {
		members, err := strictjson.Object(raw)
		if err != nil {
			return nil, fmt.Errorf("signatures[%d]: %w", i, err)
		}
		var entry struct {
			version    int
			kind, name string
			content    []byte
		}
		for key, into := range map[string]any{"schemaVersion": &entry.version, "type": &entry.kind, "name": &entry.name, "content": &entry.content} {
			if raw, ok := members[key]; ok {
				if err := json.Unmarshal(raw, into); err != nil {
					return nil, fmt.Errorf("signatures[%d].%s: %w", i, key, err)
				}
			}
		}
		if entry.version == 2 && entry.kind == "atomic" {
			found = append(found, Found{Location: fmt.Sprintf("registry extension, signature %.200q", entry.name), Raw: entry.content})
		}
	}
	return found, nil
}
