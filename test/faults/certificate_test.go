package faults

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"threadhub/test/rig"
)

// renewed plays U24's second half: the provider's certificate is renewed in the middle of a stream, and later forgotten to
// be.
func renewed(w *world) {
	a := newAuthority(w)
	first, second, old := a.sign(w, time.Hour), a.sign(w, time.Hour), a.sign(w, -time.Minute)
	f := newFront(w, w.sim.Addr(), first)
	u, err := url.Parse(w.sim.URL(w.provider()))
	w.must(err)
	u.Scheme, u.Host = "https", f.ln.Addr().String()
	roots := filepath.Join(w.TempDir(), "roots.pem")
	w.must(os.WriteFile(roots, a.pem, 0o600))
	g := w.house.Serve("SSL_CERT_FILE="+roots, "THREADHUB_UPSTREAMS__"+strings.ToUpper(w.provider())+"__BASE_URL="+u.String())
	w.before = w.metrics(g)
	w.g = append([]*rig.Gateway{g}, w.g...)

	w.want(w.ask(said(2, 0)), well)
	running := w.streaming(g, w.question(said(30, 50*time.Millisecond)))
	f.show(second)
	w.want(w.ask(said(2, 0)), well)
	w.want(running.wait(), well)
	f.cut()
	w.want(w.ask(said(2, 0)), well)
	if f.shown(first) == 0 || f.shown(second) == 0 {
		w.Errorf("the first certificate was shown %d times, the second %d", f.shown(first), f.shown(second))
	}
	f.show(old)
	f.cut()
	w.want(w.ask(said(2, 0)), failed(502, free, "upstream_unreachable"))
	f.show(second)
	w.want(w.ask(said(2, 0)), well)
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(w *world) *authority {
	w.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	a := &authority{key: key, cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &key.PublicKey, key)
	w.must(err)
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

// sign makes a certificate of this machine that is good for so long.
func (a *authority) sign(w *world, lasts time.Duration) *tls.Certificate {
	w.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(lasts),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.cert, &key.PublicKey, a.key)
	w.must(err)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// front is where a provider's TLS ends.
type front struct {
	ln net.Listener

	mu    sync.Mutex
	cert  *tls.Certificate
	times map[*tls.Certificate]int
	conns []net.Conn
}

func newFront(w *world, to string, cert *tls.Certificate) *front {
	w.Helper()
	f := &front{cert: cert, times: map[*tls.Certificate]int{}}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		NextProtos: []string{"http/1.1"}, SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.times[f.cert]++
			return f.cert, nil
		},
	})
	w.must(err)
	f.ln = ln
	var carrying sync.WaitGroup
	carrying.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", to)
			if err != nil {
				_ = c.Close()
				continue
			}
			f.mu.Lock()
			f.conns = append(f.conns, c, s)
			f.mu.Unlock()
			for _, way := range [][2]net.Conn{{c, s}, {s, c}} {
				carrying.Go(func() {
					_, _ = io.Copy(way[0], way[1])
					_, _ = c.Close(), s.Close()
				})
			}
		}
	})
	w.Cleanup(func() {
		_ = ln.Close()
		f.cut()
		carrying.Wait()
	})
	return f
}

// show shows new connections another certificate.
func (f *front) show(cert *tls.Certificate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cert = cert
}

func (f *front) shown(cert *tls.Certificate) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.times[cert]
}

// cut ends all connections.
func (f *front) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		_ = c.Close()
	}
	f.conns = nil
}
