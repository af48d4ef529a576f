package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Makes what a cluster proves itself with: a CA, the API server's certificate for the names and
// addresses given, its client certificate for the kubelet, and the key that signs service accounts.
func runCertificates() {
	dir := flag.String("dir", ".", "folder to write to")
	flag.Parse()

	ca := issue(*dir, "ca", nil, &x509.Certificate{
		Subject:  pkix.Name{CommonName: "cluster"},
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IsCA:     true, BasicConstraintsValid: true,
	})
	server := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range flag.Args() {
		if ip := net.ParseIP(name); ip != nil {
			server.IPAddresses = append(server.IPAddresses, ip)
		} else {
			server.DNSNames = append(server.DNSNames, name)
		}
	}
	issue(*dir, "apiserver", ca, server)
	issue(*dir, "kubelet-client", ca, &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver", Organization: []string{"system:masters"}},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	writeKey(*dir, "service-accounts", newKey())
}

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func issue(dir, name string, by *authority, template *x509.Certificate) *authority {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	check(err)
	template.SerialNumber = serial
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = time.Now().Add(30 * 24 * time.Hour)
	key := newKey()
	if by == nil {
		by = &authority{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.certificate, &key.PublicKey, by.key)
	check(err)
	certificate, err := x509.ParseCertificate(der)
	check(err)
	writePEM(dir, name+".crt", "CERTIFICATE", der)
	writeKey(dir, name, key)
	return &authority{certificate, key}
}

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	return key
}

func writeKey(dir, name string, key *ecdsa.PrivateKey) {
	der, err := x509.MarshalECPrivateKey(key)
	check(err)
	writePEM(dir, name+".key", "EC PRIVATE KEY", der)
}

func writePEM(dir, name, kind string, der []byte) {
	check(os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

func check(err error) {
	if err != nil {
		fail(err)
	}
}
