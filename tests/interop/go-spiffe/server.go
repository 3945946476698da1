package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
)

// runServer answers every request that carries a valid JWT-SVID for -audience.
func runServer(ctx context.Context, args []string) error {
	flags, address := newFlags("server")
	listen := flags.String("listen", "127.0.0.1:0", "`address` to listen on")
	audience := flags.String("audience", defaultServerID, "`audience` that a caller's token must be for")
	peers := flags.String("peers", "", "only `SPIFFE ID` that may connect (default: any peer, without a certificate)")
	_ = flags.Parse(args) // exits if a flag is wrong

	option, x509Source, err := openX509Source(ctx, *address)
	if err != nil {
		return err
	}
	defer x509Source.Close()
	jwtSource, err := newJWTSource(ctx, option)
	if err != nil {
		return err
	}
	defer jwtSource.Close()

	handler := authenticate(jwtSource, *audience, http.HandlerFunc(greet))
	settings := tlsconfig.TLSServerConfig(x509Source)
	if *peers != "" {
		peer, err := spiffeid.FromString(*peers)
		if err != nil {
			return fmt.Errorf("-peers %q: %w", *peers, err)
		}
		settings = tlsconfig.MTLSServerConfig(x509Source, x509Source, tlsconfig.AuthorizeID(peer))
	}
	return serve(ctx, *listen, settings, handler)
}

func greet(w http.ResponseWriter, _ *http.Request) {
	log.Print("Request received")
	_, _ = io.WriteString(w, "Success!!!")
}

// authenticate passes a request on to next only if its bearer token is a
// JWT-SVID for audience, signed by a key in bundles. The reason of a refusal
// goes to the log and not to the caller.
func authenticate(bundles jwtbundle.Source, audience string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := bearerToken(r.Header)
		if !ok {
			log.Print("Malformed header")
			refuse(w)
			return
		}
		if _, err := jwtsvid.ParseAndValidate(token, bundles, []string{audience}); err != nil {
			log.Printf("Invalid token: %v", err)
			refuse(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func refuse(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", "Bearer")
	http.Error(w, "Unauthorized", http.StatusUnauthorized)
}

// bearerToken returns the one token of the one Authorization header (RFC 6750,
// section 2.1). The scheme's case does not matter (RFC 9110, section 11.1).
func bearerToken(header http.Header) (string, bool) {
	values := header.Values("Authorization")
	if len(values) != 1 {
		return "", false
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	token = strings.Trim(token, " ")
	wellFormed := strings.EqualFold(scheme, "Bearer") && token != "" && !strings.ContainsAny(token, " \t,")
	return token, wellFormed
}
