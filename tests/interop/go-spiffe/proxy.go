package main

import (
	"context"
	"fmt"
	"net/http/httputil"
	"net/url"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
)

// runProxy forwards every request to -upstream, whose SPIFFE ID must be
// -upstream-id. The caller's token passes unchanged, because the upstream
// verifies it.
func runProxy(ctx context.Context, args []string) error {
	flags, address := newFlags("proxy")
	listen := flags.String("listen", "127.0.0.1:0", "`address` to listen on")
	upstream := flags.String("upstream", "", "`URL` to forward to, such as https://127.0.0.1:8080 (required)")
	upstreamID := flags.String("upstream-id", defaultServerID, "`SPIFFE ID` that the upstream must have")
	presents := flags.Bool("client-certificate", false, "present the X.509-SVID to the upstream")
	_ = flags.Parse(args) // exits if a flag is wrong

	target, err := url.Parse(*upstream)
	if err != nil || target.Scheme != "https" || target.Host == "" {
		return fmt.Errorf("-upstream %q is not an https URL with a host", *upstream)
	}
	peer, err := spiffeid.FromString(*upstreamID)
	if err != nil {
		return fmt.Errorf("-upstream-id %q: %w", *upstreamID, err)
	}
	_, source, err := openX509Source(ctx, *address)
	if err != nil {
		return err
	}
	defer source.Close()

	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.SetXForwarded()
		},
		Transport: transport(source, peer, *presents),
	}
	settings := tlsconfig.TLSServerConfig(source)
	return serve(ctx, *listen, settings, logged(proxy))
}
