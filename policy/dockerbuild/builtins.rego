# What buildx gives to every build policy beside its functions in Go: whether
# Docker's builder on GitHub made an image or a download.
package docker

docker_github_builder(image, repo) if {
	image.hasProvenance
	some signature in image.signatures
	docker_github_builder_signature(signature, repo)
}

docker_github_builder_tag(image, repo, tag) if {
	docker_github_builder(image, repo)
	wanted := concat("", ["refs/tags/", tag])
	some signature in image.signatures
	signature.signer.sourceRepositoryRef == wanted
}

docker_github_builder_signature(signature, repo) if {
	signature.kind == "docker-github-builder"
	signature.type == "bundle-v0.3"
	count(signature.timestamps) > 0
	signer := signature.signer
	signer.certificateIssuer == "CN=sigstore-intermediate,O=sigstore.dev"
	signer.issuer == "https://token.actions.githubusercontent.com"
	signer.runnerEnvironment == "github-hosted"
	signer.sourceRepositoryURI == concat("", ["https://github.com/", repo])
}

docker_github_builder_bundle(http, filename, repo) if {
	signature := artifact_attestation(http, filename)
	docker_github_builder_signature(signature, repo)
}

github_release_attestation(http) := signature if {
	http.schema == "https"
	http.host == "github.com"
	found := regex.find_all_string_submatch_n(`^/([^/]+/[^/]+)/releases/download/[^/]+/.`, http.path, 1)
	signature := github_attestation(http, found[0][1])
}
