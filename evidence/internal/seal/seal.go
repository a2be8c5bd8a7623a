// Package seal holds the key without which evidence.Vouch cannot be called.
// Only the packages below evidence/ can import it, so only a verifier can say
// that something is verified.
package seal

// Key is proof of being a verifier.
type Key struct{}
