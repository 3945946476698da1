// Command interop runs the server, the proxy or the client of this project's
// scenario with the public go-spiffe library, or either end of a federation.
// The interoperability test starts it instead of our own binaries, one role at
// a time. Each of them is then tested with an implementation that shares no code
// with it.
//
// Log lines go to standard error without a timestamp, because a test compares
// whole lines. The exit status is 0 for success, 1 for failure and 2 for wrong usage.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// startTimeout bounds the wait for the first answer of the Workload API, and
// the client's whole run.
const startTimeout = 30 * time.Second

// defaultServerID is the identity that server and proxy share in the scenario.
const defaultServerID = "spiffe://example.org/server"

const usage = `usage: interop server|proxy|client|bundle-server|bundle-watcher [flags]
"interop ROLE -help" lists the flags of a role`

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		exitUsage()
	}
	roles := map[string]func(context.Context, []string) error{
		"server":         runServer,
		"proxy":          runProxy,
		"client":         runClient,
		"bundle-server":  runBundleServer,
		"bundle-watcher": runBundleWatcher,
	}
	role, known := roles[os.Args[1]]
	if !known {
		exitUsage()
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := role(ctx, os.Args[2:])
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func exitUsage() {
	fmt.Fprintln(os.Stderr, usage)
	os.Exit(2)
}

// newFlags returns the flag set of a role and its -workload-api flag, which all
// roles have.
func newFlags(role string) (*flag.FlagSet, *string) {
	flags := flag.NewFlagSet("interop "+role, flag.ExitOnError)
	address := flags.String("workload-api", os.Getenv("SPIFFE_ENDPOINT_SOCKET"),
		"`address` of the Workload API, such as unix:///tmp/agent.sock (default: SPIFFE_ENDPOINT_SOCKET)")
	return flags, address
}

// workloadAPI turns the -workload-api flag into the option that every source takes.
func workloadAPI(address string) (workloadapi.SourceOption, error) {
	if address == "" {
		return nil, errors.New("no Workload API address: set -workload-api or SPIFFE_ENDPOINT_SOCKET")
	}
	return workloadapi.WithClientOptions(workloadapi.WithAddr(address)), nil
}
