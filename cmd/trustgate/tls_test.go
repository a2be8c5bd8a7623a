package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// authority signs certificates.
type authority struct {
	testing.TB
	*x509.Certificate
	key *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	a := &authority{TB: t}
	a.Certificate, a.key = a.issue(name, true)
	return a
}

// issue makes a certificate by a, or by itself where a is new.
func (a *authority) issue(name string, ca bool) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name, Organization: []string{"acme"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	parent, by := a.Certificate, a.key
	if parent == nil {
		parent, by = template, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		a.Fatal(err)
	}
	made, err := x509.ParseCertificate(raw)
	if err != nil {
		a.Fatal(err)
	}
	return made, key
}

// write leaves a certificate and its key in files.
func (a *authority) write(certificate, key, name string) {
	a.Helper()
	made, private := a.issue(name, false)
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		certificate: {Type: "CERTIFICATE", Bytes: made.Raw}, key: {Type: "PRIVATE KEY", Bytes: raw},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			a.Fatal(err)
		}
	}
}

// TestCertificates: clients prove themselves by certificates; the gate's own certificate and the clients' authority are renewed
// while it serves.
func TestCertificates(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	servers, clients, later := newAuthority(t, "servers"), newAuthority(t, "clients"), newAuthority(t, "later")
	trust := func(a *authority) {
		if err := os.WriteFile(at("clients.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	servers.write(at("gate.crt"), at("gate.key"), "the first")
	trust(clients)
	p := serving(t, fmt.Sprintf("tls: {cert: %s, key: %s, client_ca: %s}\n", at("gate.crt"), at("gate.key"), at("clients.crt")))

	ask := func(by *authority, name string) (status int, server string, err error) {
		t.Helper()
		pool := x509.NewCertPool()
		pool.AddCert(servers.Certificate)
		setup := &tls.Config{RootCAs: pool}
		if by != nil {
			made, key := by.issue(name, false)
			setup.Certificates = []tls.Certificate{{Certificate: [][]byte{made.Raw}, PrivateKey: key}}
		}
		transport := &http.Transport{TLSClientConfig: setup, ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		answer, err := (&http.Client{Transport: transport}).Get("https://" + p.public + "/api/v1/image?image=registry.acme.example/shop:1")
		if err != nil {
			return 0, "", err
		}
		defer answer.Body.Close()
		if answer.ProtoMajor != 2 {
			t.Errorf("it speaks %s", answer.Proto)
		}
		var image struct{ Verdict struct{ Action string } }
		if body, err := io.ReadAll(answer.Body); err != nil || json.Unmarshal(body, &image) != nil || image.Verdict.Action != "serve" {
			t.Errorf("%s: %s, %v", answer.Status, body, err)
		}
		return answer.StatusCode, answer.TLS.PeerCertificates[0].Subject.CommonName, nil
	}
	if status, server, err := ask(clients, "alice"); err != nil || status != http.StatusOK || server != "the first" {
		t.Errorf("a client: %d by %q, %v", status, server, err)
	}
	for name, by := range map[string]*authority{"nobody": nil, "a stranger": later} {
		if status, _, err := ask(by, "alice"); err == nil {
			t.Errorf("%s is answered %d", name, status)
		}
	}

	servers.write(at("gate.crt"), at("gate.key"), "the second")
	trust(later)
	p.reload(1)
	if status, server, err := ask(later, "alice"); err != nil || status != http.StatusOK || server != "the second" {
		t.Errorf("after the renewal, a client: %d by %q, %v", status, server, err)
	}
	if status, _, err := ask(clients, "alice"); err == nil {
		t.Errorf("after the renewal, who was a client is answered %d", status)
	}
}
