package gittag_test

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/trustgate/trustgate/evidence/gittag"
)

const (
	edKey    = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINHghYzBMNjgi3dm5fSOyTLpTZIb5PMd0lh1rk0uo5t0"
	otherKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMyvu/vxp0b0UayQoABCF9Y6X97CieVNstpJc7Z72Knp"
	ecKey    = "ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBAFRk7/Q7pCQ/4rt7lG3OSLPqscDdpeU0SaVDMQEIXcAeiayx+6fjngaX/krdQWxp+EGpFFfgBmvZRy8ogvR/Eb5RQDTmRyJC8BFzNKWB+S+kjIMndGH3nOxRNENd4O8x/w32V685+aUZ3ZsV4WOj0qJyO/GQVcSzG5cadj0e0dH7zH3Tw=="
	dsaKey   = "ssh-dss AAAAB3NzaC1kc3MAAACBAPXFd+i7R5NyoW+f7NylYnq4+UyGbx07lc8kO5+ZYITKQCBNbp1xTpZknBB8uA+/mSPqNj2LF3HwrdhvbnAKiZw5lzIDiqn0Gct+wtCMehuZkPjimPGDY5ToRrP3juKLlgV/v3aZ3ZBwWuICweC8wDfAA8hWD1Dk4dOO2xxcWLirAAAAFQC9lb2k++nNK2CIoGytN8TxzrL6swAAAIEAyPJ6oJVMLRFVEz/PDGWlbhZ5F+hvcFrI6507+S4ckaMD65x/JCRvF8tdDFEGpcuD1cZsaplt0b3SHWabz9eM7qfN2APtz2t3ui5pRAeMbId1S7aCcsB3VwtMCgEVwQkdOe/Hp9gmvsaKP/382WY09o/zOeboPomePODe2TiQto4AAACAMsyn+jfTpg3HJMV+77H0H1nTYq2vHJ7qviQrTvXrv9b/R3nVP0ZRM1jNmzcJjP6glzQO5wREN6xaPwBztm4nQDSfFJHLNXDuPqc8zyZ0kZlMrllTUpRBhHr3uGdQc9imhuK2GWSe+yAszNjyKOilIA9PWEMDJURtTGdOh9xIGbI="
	shortKey = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQCybNlFow/iTcSYdm2wjBoAwNq3XeGvAyrlQQb2UCZwLLp5glCgkaipOOSvDKkGdUNsMgKBSZhUyU2+Nt5RvBPLCdq0Yadgtyx0A2jVOiGvUfc1UJRzW8CDXT2T91Fh84eZ/GJyjOUvFtkG7P733TEgqEkncriv2HpB4FfhGWFVEQ=="
	certKey  = "ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29tAAAAIByPTyZBW3dXQcZt/0hItvV84EtIieN827VLwQI2y6s9AAAAIMyvu/vxp0b0UayQoABCF9Y6X97CieVNstpJc7Z72KnpAAAAAAAAAAAAAAABAAAAAXgAAAAFAAAAAXkAAAAAXgvhAAAAAADypSOAAAAAAAAAAIIAAAAVcGVybWl0LVgxMS1mb3J3YXJkaW5nAAAAAAAAABdwZXJtaXQtYWdlbnQtZm9yd2FyZGluZwAAAAAAAAAWcGVybWl0LXBvcnQtZm9yd2FyZGluZwAAAAAAAAAKcGVybWl0LXB0eQAAAAAAAAAOcGVybWl0LXVzZXItcmMAAAAAAAAAAAAAADMAAAALc3NoLWVkMjU1MTkAAAAg0eCFjMEw2OCLd2bl9I7JMulNkhvk8x3SWHWuTS6jm3QAAABTAAAAC3NzaC1lZDI1NTE5AAAAQHc4/Trf8VbuSvu260VvMq0efpilTvWUoYIjArAdKEIZoQ396HvDu0ebKkLKkG7vdzNUuK6V4b3HBuP6PSWRdwk="
)

func TestLoadSSHSigner(t *testing.T) {
	for name, tc := range map[string]struct {
		file string
		keys int
	}{
		"a public key":                 {edKey, 1},
		"a public key with a comment":  {edKey + " release@example.com on a laptop\n", 1},
		"principals":                   {"release@example.com,*@example.org " + edKey, 1},
		"quoted principals":            {`"release@example.com" ` + edKey, 1},
		"any principal":                {"* " + edKey, 1},
		"options":                      {`* namespaces="git,file",valid-after="20200101Z",valid-before="20990101120000Z" ` + edKey, 1},
		"options in capitals":          {`* Namespaces="git" ` + edKey, 1},
		"tabs and Windows":             {"*\t" + edKey + "\r\n\r\n* " + ecKey + "\r\n", 2},
		"comments and empty lines":     {"# the release keys\n\n  " + edKey + "\n\t# and\n* " + ecKey + "\n", 2},
		"the same key in two windows":  {`* valid-before="20200101" ` + edKey + "\n" + `* valid-after="20200101" ` + edKey, 2},
		"a key that has expired":       {`* valid-before="199912312359" ` + edKey, 1},
		"a key for files beside a key": {`* namespaces="file" ` + edKey + "\n* " + otherKey, 2},
	} {
		t.Run(name, func(t *testing.T) {
			signer, err := gittag.LoadSSHSigner("release", []byte(tc.file))
			if err != nil || len(signer.Fingerprints()) != tc.keys || signer.Name != "release" {
				t.Fatalf("got %+v, %v, want %d keys", signer, err, tc.keys)
			}
			for _, f := range signer.Fingerprints() {
				if !strings.HasPrefix(f, "SHA256:") {
					t.Errorf("the fingerprint %q", f)
				}
			}
		})
	}
	for name, tc := range map[string]struct{ file, says string }{
		"empty":                           {"", "there is no key in it"},
		"only comments":                   {"# " + edKey, "there is no key in it"},
		"text":                            {"hello", "it is neither a key nor a list of principals"},
		"text on line 2":                  {edKey + "\nhello world\n", "line 2: no key can be read from it"},
		"a key cut short":                 {edKey[:60], "no key can be read from it"},
		"another type than the key's":     {strings.Replace(edKey, "ssh-ed25519", "ssh-rsa", 1), "no key can be read from it"},
		"a DSA key":                       {"* " + dsaKey, "is a DSA key, which is too weak"},
		"a short RSA key":                 {shortKey, "is an RSA key of 1024 bits, less than 2048"},
		"a certificate":                   {certKey, "is in a certificate"},
		"a private key":                   {"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "a private key"},
		"a certificate authority":         {"* cert-authority " + edKey, "it is a certificate authority"},
		"an authority without principals": {"cert-authority " + edKey, "it is a certificate authority"},
		"an authority among options":      {"restrict,Cert-Authority " + edKey, "it is a certificate authority"},
		"options without principals":      {`namespaces="git" ` + edKey, "options follow the principals"},
		"login options":                   {`command="git-shell",no-pty ` + edKey, "options follow the principals"},
		"an option that is not known":     {`* no-touch-required ` + edKey, `the option "no-touch-required"`},
		"an option that is new":           {`* colour="red" ` + edKey, "will not ignore it"},
		"an option twice":                 {`* namespaces="git",namespaces="file" ` + edKey, "is there twice"},
		"an option without quotes":        {`* namespaces=git ` + edKey, "not in quotes"},
		"an escape in an option":          {`* namespaces="git\"x" ` + edKey, "not in quotes"},
		"an empty namespace":              {`* namespaces="" ` + edKey, "is not a pattern"},
		"a character class":               {`* namespaces="[g]it" ` + edKey, "is not a pattern"},
		"only for files":                  {`* namespaces="file" ` + edKey, `none of its keys is for the namespace "git"`},
		"not for git":                     {`* namespaces="*,!g?t" ` + edKey, `none of its keys is for the namespace "git"`},
		"principals that are excluded":    {"!mallory@example.com,* " + edKey, "it excludes principals"},
		"a quote without an end":          {`"release@example.com ` + edKey, "a quote has no end"},
		"a time that is none":             {`* valid-after="tomorrow" ` + edKey, "is not a time"},
		"a day that is none":              {`* valid-after="20230230Z" ` + edKey, "is not a time"},
		"a window that never opens":       {`* valid-after="20240101Z",valid-before="20230101Z" ` + edKey, "never counts"},
		"too long":                        {strings.Repeat("#\n", 1<<20), "more than 1048576"},
		"too many":                        {strings.Repeat(edKey+"\n", 2000), "more than 1024 keys"},
	} {
		t.Run(name, func(t *testing.T) {
			signer, err := gittag.LoadSSHSigner("release", []byte(tc.file))
			if err == nil || len(signer.Fingerprints()) > 0 || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), `"release"`) {
				t.Errorf("got %v, %v, want an error that says %q", signer.Fingerprints(), err, tc.says)
			}
		})
	}
}

// TestAllowedSignersOptions asks about one good tag with what the file says of
// its key.
func TestAllowedSignersOptions(t *testing.T) {
	w := theWorld(t)
	server := httptest.NewServer(replay(w.backend(t)))
	defer server.Close()
	public := w.read(t, w.sshRelease+".pub")
	at := func(d time.Duration) string { return time.Now().UTC().Add(d).Format("20060102150405Z") }
	const day = 24 * time.Hour
	for name, tc := range map[string]struct {
		lines string
		now   time.Duration // from now
		says  string
	}{
		"a window around the tag":        {lines: `* valid-after="` + at(-day) + `",valid-before="` + at(day) + `" `},
		"a namespace of several":         {lines: `* namespaces="file,g*" `},
		"for files only":                 {lines: "* " + edKey + "\n" + `* namespaces="file" `, says: `its namespaces do not include "git"`},
		"not valid yet":                  {lines: `* valid-after="` + at(day) + `" `, says: "the key is not valid before"},
		"not valid yet when it signed":   {lines: `* valid-after="` + at(day) + `" `, now: 2 * day, says: "the key is not valid before"},
		"no longer valid":                {lines: `* valid-before="` + at(day) + `" `, now: 2 * day, says: "the key is not valid after"},
		"no longer valid when it signed": {lines: `* valid-before="` + at(-day) + `" `, says: "the key is not valid after"},
		"one of two windows":             {lines: `* valid-before="` + at(-day) + `" ` + public + "\n" + `* valid-after="` + at(-day) + `" `},
		"signed in the future":           {lines: "* ", now: -day, says: "which is in the future"},
	} {
		t.Run(name, func(t *testing.T) {
			signer, err := gittag.LoadSSHSigner("release", []byte(tc.lines+public))
			if err != nil {
				t.Fatal(err)
			}
			o := w.options()
			o.SSH = []gittag.SSHSigner{signer}
			o.Now = func() time.Time { return soon().Add(tc.now) }
			found, err := verifier(t, o).Find(t.Context(), server.URL+"/acme/app", w.commits["ssh"], "")
			if err != nil || found.Tag.By.Verified() != (tc.says == "") || !strings.Contains(found.Tag.Err, tc.says) {
				t.Errorf("got %+v, %v, want it to say %q", found.Tag, err, tc.says)
			}
		})
	}
}
