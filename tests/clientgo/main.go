// Says whether and where client-go connects, by the kubeconfig and the environment it is started
// with, as kubectl would: `clientgo LISTENER [CONTEXT]`.
//
// Each address it dials is recorded, and LISTENER is dialled instead. What arrives there is the
// listener's business.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"k8s.io/client-go/discovery"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // as kubectl has them
	"k8s.io/client-go/tools/clientcmd"
)

const timeout = 60 * time.Second

type answer struct {
	Refused string   `json:"refused"` // by the configuration, before anything is dialled
	Failed  string   `json:"failed"`  // once it was accepted
	Dialled []string `json:"dialled"`
}

func main() {
	listener, chosen := os.Args[1], ""
	if len(os.Args) > 2 {
		chosen = os.Args[2]
	}
	said := ask(listener, chosen)
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		os.Exit(1)
	}
}

func ask(listener, chosen string) answer {
	said := answer{Dialled: []string{}}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		clientcmd.NewDefaultClientConfigLoadingRules(),
		&clientcmd.ConfigOverrides{CurrentContext: chosen},
	).ClientConfig()
	if err != nil {
		said.Refused = err.Error()
		return said
	}
	var lock sync.Mutex
	config.Timeout = timeout
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		lock.Lock()
		said.Dialled = append(said.Dialled, address)
		lock.Unlock()
		// What can't be dialled at all must not reach the listener.
		if _, port, err := net.SplitHostPort(address); err != nil {
			return nil, err
		} else if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
			return nil, fmt.Errorf("no such port: %s", address)
		}
		return (&net.Dialer{}).DialContext(ctx, network, listener)
	}
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		said.Refused = err.Error()
		return said
	}
	if _, err = client.ServerVersion(); err != nil {
		said.Failed = err.Error()
	}
	return said
}
