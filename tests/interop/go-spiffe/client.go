package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// runClient gets -url with a fresh JWT-SVID for -audience and prints the body.
// With -client-certificate the X.509-SVID stands for the caller instead. It
// returns any status but 200 as an error, such as "401 Unauthorized".
func runClient(ctx context.Context, args []string) error {
	flags, address := newFlags("client")
	url := flags.String("url", "", "`URL` to get, such as https://127.0.0.1:8443/ (required)")
	serverID := flags.String("server-id", defaultServerID, "`SPIFFE ID` that the server at -url must have")
	audience := flags.String("audience", "", "`audience` to ask a token for (default: -server-id)")
	presents := flags.Bool("client-certificate", false, "present the X.509-SVID instead of a token")
	_ = flags.Parse(args) // exits if a flag is wrong

	if *url == "" {
		return errors.New("no URL: set -url")
	}
	peer, err := spiffeid.FromString(*serverID)
	if err != nil {
		return fmt.Errorf("-server-id %q: %w", *serverID, err)
	}
	if *audience == "" {
		*audience = peer.String()
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	option, source, err := openX509Source(ctx, *address)
	if err != nil {
		return err
	}
	defer source.Close()
	client := &http.Client{Transport: transport(source, peer, *presents)}
	if *presents {
		return get(ctx, client, *url, "")
	}
	token, err := fetchToken(ctx, option, *audience)
	if err != nil {
		return err
	}
	return get(ctx, client, *url, token)
}

func fetchToken(ctx context.Context, option workloadapi.JWTSourceOption, audience string) (string, error) {
	source, err := newJWTSource(ctx, option)
	if err != nil {
		return "", err
	}
	defer source.Close()
	svid, err := source.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	if err != nil {
		return "", fmt.Errorf("unable to get a JWT-SVID for audience %q: %w", audience, err)
	}
	return svid.Marshal(), nil
}

func get(ctx context.Context, client *http.Client, url, token string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("-url %q: %w", url, err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("unable to send the request: %w", err)
	}
	defer response.Body.Close()

	if response.StatusCode != http.StatusOK {
		// response.Status is not used, because over HTTP/1.1 the peer chooses its words.
		return fmt.Errorf("%d %s", response.StatusCode, http.StatusText(response.StatusCode))
	}
	if _, err := io.Copy(os.Stdout, response.Body); err != nil {
		return fmt.Errorf("unable to copy the response body: %w", err)
	}
	return nil
}
