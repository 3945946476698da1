package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const (
	readHeaderTimeout = 10 * time.Second
	drainTimeout      = 10 * time.Second
)

// serve answers requests on address with handler until ctx ends, and then drains.
// settings has the X.509-SVID to present, and the certificates to request.
// ServeTLS offers both HTTP/2 and HTTP/1.1 by ALPN.
func serve(ctx context.Context, address string, settings *tls.Config, handler http.Handler) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("unable to listen (-listen %s): %w", address, err)
	}
	server := &http.Server{
		Handler:           handler,
		TLSConfig:         settings,
		ReadHeaderTimeout: readHeaderTimeout,
	}

	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(listener, "", "") }()
	log.Printf("listening on %s", listener.Addr())

	select {
	case err := <-served:
		return fmt.Errorf("unable to serve: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		return fmt.Errorf("requests in flight did not finish: %w", errors.Join(err, server.Close()))
	}
	return nil
}

// transport connects only to the holder of an X.509-SVID with the SPIFFE ID
// peer, and presents its own if presents is set. A transport with TLS settings of
// its own speaks HTTP/2 only if ForceAttemptHTTP2 is set.
func transport(source *workloadapi.X509Source, peer spiffeid.ID, presents bool) *http.Transport {
	settings := tlsconfig.TLSClientConfig(source, tlsconfig.AuthorizeID(peer))
	if presents {
		settings = tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(peer))
	}
	return &http.Transport{TLSClientConfig: settings, ForceAttemptHTTP2: true}
}

// logged logs each request before next answers it.
func logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.Printf("%s %s", r.Method, r.URL)
		next.ServeHTTP(w, r)
	})
}

// openX509Source waits for the first X.509-SVID and trust bundle of the Workload
// API at address. It also returns the option for other sources there.
func openX509Source(ctx context.Context, address string) (workloadapi.SourceOption, *workloadapi.X509Source, error) {
	option, err := workloadAPI(address)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx, option)
	if err != nil {
		return nil, nil, fmt.Errorf("unable to get an X.509-SVID: %w", err)
	}
	return option, source, nil
}

// newJWTSource waits for the first JWT bundles.
func newJWTSource(ctx context.Context, option workloadapi.JWTSourceOption) (*workloadapi.JWTSource, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	source, err := workloadapi.NewJWTSource(ctx, option)
	if err != nil {
		return nil, fmt.Errorf("unable to get JWT bundles: %w", err)
	}
	return source, nil
}
