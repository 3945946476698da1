package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// runBundleServer serves the bundle of its own trust domain, with its X.509-SVID.
func runBundleServer(ctx context.Context, args []string) error {
	flags, address := newFlags("bundle-server")
	listen := flags.String("listen", "127.0.0.1:0", "`address` to listen on")
	_ = flags.Parse(args) // exits if a flag is wrong

	option, x509Source, err := openX509Source(ctx, *address)
	if err != nil {
		return err
	}
	defer x509Source.Close()
	bundles, err := workloadapi.NewBundleSource(ctx, option)
	if err != nil {
		return fmt.Errorf("unable to get bundles: %w", err)
	}
	defer bundles.Close()
	svid, err := x509Source.GetX509SVID()
	if err != nil {
		return err
	}
	handler, err := federation.NewHandler(svid.ID.TrustDomain(), bundles)
	if err != nil {
		return err
	}
	return serve(ctx, *listen, tlsconfig.TLSServerConfig(x509Source), logged(handler))
}

// runBundleWatcher fetches the bundle at -url by its refresh hint until it is
// stopped, and logs each one. With -id the endpoint has that SPIFFE ID, and the
// file -bundle has the bundle for the first fetch. Otherwise the endpoint is
// verified by its name, under the CA certificates in the file -ca.
func runBundleWatcher(ctx context.Context, args []string) error {
	flags, _ := newFlags("bundle-watcher")
	url := flags.String("url", "", "`URL` of the bundle endpoint (required)")
	domain := flags.String("trust-domain", "", "`trust domain` of the bundle (required)")
	id := flags.String("id", "", "`SPIFFE ID` of the endpoint")
	bundle := flags.String("bundle", "", "`file` with the first bundle")
	ca := flags.String("ca", "", "`file` with CA certificates in PEM")
	_ = flags.Parse(args) // exits if a flag is wrong

	if *url == "" {
		return errors.New("-url is missing: give the URL of the bundle endpoint")
	}
	trustDomain, err := spiffeid.TrustDomainFromString(*domain)
	if err != nil {
		return fmt.Errorf("-trust-domain %q: %w", *domain, err)
	}
	watcher := &watcher{known: spiffebundle.NewSet()}
	var option federation.FetchOption
	if *id != "" {
		option, err = spiffeAuth(watcher.known, trustDomain, *id, *bundle)
	} else {
		option, err = webAuth(*ca)
	}
	if err != nil {
		return err
	}
	err = federation.WatchBundle(ctx, trustDomain, *url, watcher, option)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func spiffeAuth(known *spiffebundle.Set, domain spiffeid.TrustDomain, id, file string) (federation.FetchOption, error) {
	endpoint, err := spiffeid.FromString(id)
	if err != nil {
		return nil, fmt.Errorf("-id %q: %w", id, err)
	}
	first, err := spiffebundle.Load(domain, file)
	if err != nil {
		return nil, fmt.Errorf("-bundle %s: %w", file, err)
	}
	known.Add(first)
	return federation.WithSPIFFEAuth(known, endpoint), nil
}

func webAuth(file string) (federation.FetchOption, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("-ca %s: %w", file, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("-ca %s: no certificates", file)
	}
	return federation.WithWebPKIRoots(roots), nil
}

// watcher logs what it gets. The next fetch is verified with the last bundle.
type watcher struct {
	known *spiffebundle.Set
}

func (w *watcher) NextRefresh(hint time.Duration) time.Duration {
	return hint
}

func (w *watcher) OnUpdate(bundle *spiffebundle.Bundle) {
	w.known.Add(bundle)
	hint, _ := bundle.RefreshHint()
	sequence, _ := bundle.SequenceNumber()
	log.Printf("bundle of %s: sequence %d, hint %s, authorities %d X.509, %d JWT",
		bundle.TrustDomain(), sequence, hint, len(bundle.X509Authorities()), len(bundle.JWTAuthorities()))
}

func (w *watcher) OnError(err error) {
	log.Printf("no bundle: %v", err)
}
