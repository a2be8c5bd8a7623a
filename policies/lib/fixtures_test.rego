# Inputs that the tests of the shipped rules start from.
package trustgate_test.fixtures

digest(n) := concat("", ["sha256:", crypto.sha256(json.marshal(n))])

signer(name) := {"name": name, "fingerprint": "", "identity": "", "issuer": ""}

signature(name) := {
	"kind": "openpgp", "verified": true, "signer": signer(name),
	"reference": "registry.example/acme/app:1", "reference_matches": true,
	"signed_at": null, "expires_at": null, "location": "", "inherited": false, "error": "",
}

unverified(reason) := object.union(signature("nobody"), {"verified": false, "signer": null, "error": reason})

# An attestation by a named signer.
attestation(type, predicate) := {
	"predicate_type": type, "verified": true, "signer": signer("ci"), "subject": digest(1), "predicate": predicate,
	"location": "", "inherited": false, "error": "",
}

unattested(type, reason) := object.union(attestation(type, null), {"verified": false, "signer": null, "error": reason})

sbom := attestation("https://spdx.dev/Document", {"spdxVersion": "SPDX-2.3"})

# What Trivy reports about an image, as cosign attests it.
scan(finished, vulnerabilities) := attestation("https://cosign.sigstore.dev/attestation/vuln/v1", {
	"scanner": {"uri": "pkg:github/aquasecurity/trivy@0.68.2", "version": "0.68.2", "result": {
		"SchemaVersion": 2, "ArtifactName": "app",
		"Results": [{"Target": "app (debian 12.12)", "Class": "os-pkgs", "Vulnerabilities": vulnerabilities}],
	}},
	"metadata": {"scanStartedOn": finished, "scanFinishedOn": finished},
})

build := {
	"verified": true, "trusted": true, "builder_id": "https://ci.example/builder", "build_type": "", "signer": signer("ci"),
	"started_on": null, "finished_on": null, "parameters": null, "materials": [],
	"reproduced": {"by": ["builder-a", "builder-b"], "agree": 2, "disagree": 0},
}

source := {
	"verified": true, "trusted": true, "repository": "https://git.example/acme/app", "revision": "4a5b6c", "ref": "refs/heads/main",
	"via": "provenance", "dockerfile": null, "url": "",
	"tag": {"name": "v1", "verified": true, "signer": signer("release"), "signed_at": "2026-05-30T12:00:00Z", "error": ""},
	"commit": {"verified": true, "signer": signer("developer"), "error": ""},
}

packages := {
	"state": "done", "error": "", "distribution": "debian 12", "managers": ["dpkg"], "count": 88,
	"modified": [], "missing": [], "replaced": [], "modified_conffiles": ["/etc/motd"],
	"unowned_executables": ["/usr/local/bin/app"], "unowned_setuid": [], "truncated": false, "source_url": "",
}

# An image that is trusted in every way.
image := {
	"request": {"client": {"identity": "", "address": "", "user_agent": ""}, "route": "registry.example", "time": "2026-06-01T12:00:00Z"},
	"image": {
		"reference": "registry.example/acme/app:1", "registry": "registry.example", "repository": "acme/app", "tag": "1",
		"digest": digest(1), "media_type": "application/vnd.oci.image.manifest.v1+json", "kind": "image", "platform": "linux/amd64",
		"annotations": {}, "labels": {}, "created": null, "size": 2048,
		"layers": [{"digest": digest(2), "diff_id": digest(3), "size": 1024, "media_type": "", "foreign": false}],
		"index": null, "root": false, "config": null,
	},
	"signatures": [signature("release")],
	"attestations": [sbom, scan("2026-06-01T06:00:00Z", [])],
	"build": build,
	"source": source,
	"parents": [parent(["base/node:20"], "serve", [])],
	"packages": packages,
	"errors": [],
}

# A parent at the end of the way from the image.
parent(way, action, reasons) := {
	"reference": path[count(path) - 1], "digest": digest(concat("/", way)), "stage": "final", "known": "attested",
	"depth": count(way), "path": path, "root": false,
	"verdict": {"action": action, "reasons": reasons}, "build": build, "source": source, "error": "",
} if {
	path := array.concat(["registry.example/acme/app:1"], [concat("/", ["registry.example", step]) | some step in way])
}

reason(code, msg) := {"code": code, "msg": msg, "severity": "deny", "effect": "block"}

# The trusted image with some of its members replaced: paths as in JSON patch.
with_changes(changes) := json.patch(image, [{"op": "replace", "path": path, "value": value} | some path, value in changes])

codes(findings) := {f.code | some f in findings}

messages(findings) := {f.msg | some f in findings}
