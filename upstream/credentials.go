package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// Credentials says how to log in. The zero value does not.
type Credentials struct {
	// DockerConfig is the path of a docker config.json, whose credential
	// helpers are used. One that does not exist holds no credentials.
	DockerConfig string

	// Username and PasswordFile go together. The file's trailing newline is
	// not part of the password.
	Username     string
	PasswordFile string

	// Anonymous is the zero value, spelled out.
	Anonymous bool

	client bool // who pulls has brought its own
}

// maxPasswordFile bounds the password, in bytes.
const maxPasswordFile = 64 << 10

func (c Credentials) check() error {
	given := 0
	for _, is := range []bool{c.DockerConfig != "", c.Username != "" || c.PasswordFile != "", c.Anonymous} {
		if is {
			given++
		}
	}
	switch {
	case given > 1:
		return errors.New("credentials: give one of a docker config, a user name with a password file, or anonymous")
	case (c.Username == "") != (c.PasswordFile == ""):
		return errors.New("credentials: a user name and a password file go together")
	}
	return nil
}

// advice says what may help when the registry wants other credentials.
func (c Credentials) advice(host string) string {
	switch {
	case c.client:
		return "check that it exists and that your credentials for the gate are those of " + host
	case c.DockerConfig != "":
		return fmt.Sprintf("check that it exists and that %s has credentials for %s that may read it (docker login %s)", c.DockerConfig, host, host)
	case c.Username != "":
		return fmt.Sprintf("check that it exists and that user %q may read it with the password in %s", c.Username, c.PasswordFile)
	}
	return "check that it exists; it was asked for without credentials, so give the route some if it is private"
}

// credentialError is a failure on this side to get credentials at all.
type credentialError struct{ text string }

func (e *credentialError) Error() string { return e.text }

// source answers oras-go. Files and helpers are read whenever a token is
// wanted, so that rotated credentials are picked up.
func (c Credentials) source(host string) auth.CredentialFunc {
	return func(ctx context.Context, asked string) (auth.Credential, error) {
		if asked != host {
			return auth.EmptyCredential, nil
		}
		switch {
		case c.DockerConfig != "":
			store, err := credentials.NewStore(c.DockerConfig, credentials.StoreOptions{})
			if err != nil {
				return auth.EmptyCredential, &credentialError{fmt.Sprintf("the docker config %s cannot be read or is not valid", c.DockerConfig)}
			}
			found, err := store.Get(ctx, credentials.ServerAddressFromRegistry(host))
			if err != nil {
				// What a helper prints may hold what it should not.
				return auth.EmptyCredential, &credentialError{fmt.Sprintf("the credential helper that %s names for %s failed; run it by hand", c.DockerConfig, host)}
			}
			return found, nil
		case c.Username != "":
			password, err := readPassword(c.PasswordFile)
			if err != nil {
				return auth.EmptyCredential, &credentialError{err.Error()}
			}
			return auth.Credential{Username: c.Username, Password: password}, nil
		}
		return auth.EmptyCredential, nil
	}
}

func readPassword(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("the password file: %w", err)
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxPasswordFile+1))
	if err != nil {
		return "", fmt.Errorf("the password file: %w", err)
	}
	password := strings.TrimRight(string(raw), "\r\n")
	if password == "" || len(raw) > maxPasswordFile {
		return "", fmt.Errorf("the password file %s is empty or has more than %d bytes", path, maxPasswordFile)
	}
	return password, nil
}

// maxTokens bounds how many tokens are kept. A registry wants one for each
// repository, and clients choose what repositories they name.
const maxTokens = 4096

// tokens is oras-go's cache, emptied when it has grown too large.
type tokens struct {
	mu    sync.Mutex
	cache auth.Cache
	kept  int
}

func (t *tokens) current() auth.Cache {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cache == nil || t.kept >= maxTokens {
		t.cache, t.kept = auth.NewCache(), 0
	}
	return t.cache
}

// GetScheme implements auth.Cache.
func (t *tokens) GetScheme(ctx context.Context, registry string) (auth.Scheme, error) {
	return t.current().GetScheme(ctx, registry)
}

// GetToken implements auth.Cache.
func (t *tokens) GetToken(ctx context.Context, registry string, scheme auth.Scheme, key string) (string, error) {
	return t.current().GetToken(ctx, registry, scheme, key)
}

// Set implements auth.Cache.
func (t *tokens) Set(ctx context.Context, registry string, scheme auth.Scheme, key string, fetch func(context.Context) (string, error)) (string, error) {
	cache := t.current()
	t.mu.Lock()
	t.kept++
	t.mu.Unlock()
	return cache.Set(ctx, registry, scheme, key, fetch)
}
