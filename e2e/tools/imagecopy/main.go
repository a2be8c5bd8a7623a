// Command imagecopy copies an image from a registry into an OCI layout with
// the library that podman, skopeo and CRI-O pull with, at its newest release.
// Debian's podman and skopeo are older than that library's support for the
// registry's Warning headers, and no newer ones can be built as Go modules.
//
//	imagecopy docker://127.0.0.1:5000/app:1 oci:/tmp/layout:1 [policy.json registries.d]
//
// With a policy.json it takes what that lets in; without, everything, since then the gate
// is to refuse. Debian's skopeo is built without sigstore.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/oci/layout"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 2 && len(args) != 4 {
		return fmt.Errorf("usage: imagecopy docker://IMAGE oci:DIR:TAG [POLICY.JSON REGISTRIES.D]")
	}
	from, err := docker.Transport.ParseReference(trim(args[0], "docker:"))
	if err != nil {
		return err
	}
	to, err := layout.Transport.ParseReference(trim(args[1], "oci:"))
	if err != nil {
		return err
	}
	policy := &signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}}
	system := &types.SystemContext{DockerInsecureSkipTLSVerify: types.OptionalBoolTrue}
	if len(args) == 4 {
		if policy, err = signature.NewPolicyFromFile(args[2]); err != nil {
			return err
		}
		system.RegistriesDirPath = args[3]
	}
	accept, err := signature.NewPolicyContext(policy)
	if err != nil {
		return err
	}
	defer func() { _ = accept.Destroy() }()
	_, err = copy.Image(ctx, accept, to, from, &copy.Options{
		ImageListSelection: copy.CopyAllImages,
		PreserveDigests:    true,
		RemoveSignatures:   true, // an OCI layout has no place for them
		ReportWriter:       os.Stdout,
		SourceCtx:          system,
	})
	return err
}

func trim(s, prefix string) string {
	if len(s) > len(prefix) && s[:len(prefix)] == prefix {
		return s[len(prefix):]
	}
	return s
}
