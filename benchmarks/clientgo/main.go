// Command clientgo holds a Rancher fleet in typed shared informers of client-go, as Rancher's own
// server does: the peer that telemetryd is measured beside.
//
// It speaks the benchmark's protocol: a JSON line on stdout once it is loaded ("ready") and once
// all informers have synced ("synced"), then an answer to each line on stdin: "collect" makes the
// SCC payload's counts from the listers, "events" tells how many updates have come.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

type systemKey struct {
	Arch   string `json:"arch"`
	CPU    int64  `json:"cpu"`
	Memory int64  `json:"memory"`
}

type systemRow struct {
	systemKey
	Count int `json:"count"`
}

type clusterRow struct {
	Nodes int `json:"nodes"`
	Count int `json:"count"`
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "where the API server is")
	flag.Parse()
	client, err := connect(*kubeconfig)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	tell(map[string]interface{}{"event": "ready"})
	awaitLine := bufio.NewScanner(os.Stdin)
	awaitLine.Scan() // "start": the parent has read the CPU time by now

	var updates int64
	stop := make(chan struct{})
	objects := map[string]runtime.Object{
		"nodes": &Node{}, "clusters": &Cluster{}, "settings": &Setting{},
		"features": &Feature{}, "projects": &Project{},
	}
	informers := map[string]cache.SharedIndexInformer{}
	synced := []cache.InformerSynced{}
	for plural, object := range objects {
		source := cache.NewListWatchFromClient(client, plural, "", fields.Everything())
		informer := cache.NewSharedIndexInformer(source, object, 0,
			cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
		informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			UpdateFunc: func(_, _ interface{}) { atomic.AddInt64(&updates, 1) },
		})
		informers[plural] = informer
		synced = append(synced, informer.HasSynced)
		go informer.Run(stop)
	}
	for !allSynced(synced) {
		time.Sleep(2 * time.Millisecond)
	}
	nodes := informers["nodes"].GetStore()
	tell(map[string]interface{}{"event": "synced", "nodes": len(nodes.ListKeys())})

	for awaitLine.Scan() {
		switch awaitLine.Text() {
		case "collect":
			started := time.Now()
			body := collect(nodes, informers["clusters"].GetStore())
			tell(map[string]interface{}{
				"event": "collect", "ms": float64(time.Since(started).Nanoseconds()) / 1e6,
				"bytes": len(body),
			})
		case "events":
			tell(map[string]interface{}{"event": "events", "count": atomic.LoadInt64(&updates)})
		}
	}
	close(stop)
}

func connect(kubeconfig string) (rest.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.APIPath = "/apis"
	config.GroupVersion = &groupVersion
	config.NegotiatedSerializer = serializer.NewCodecFactory(newScheme()).WithoutConversion()
	return rest.RESTClientFor(config)
}

func allSynced(informers []cache.InformerSynced) bool {
	for _, synced := range informers {
		if !synced() {
			return false
		}
	}
	return true
}

// collect counts what the SCC payload counts, as Rancher's telemetry does: over all nodes, anew.
func collect(nodes, clusters cache.Store) []byte {
	systems := map[systemKey]int{}
	sizes := map[string]int{}
	for _, item := range clusters.List() {
		sizes[item.(*Cluster).Name] = 0
	}
	for _, item := range nodes.List() {
		node := item.(*Node)
		if _, known := sizes[node.Namespace]; !known {
			continue
		}
		status := &node.Status.InternalNodeStatus
		cpu := status.Capacity[corev1.ResourceCPU]
		memory := status.Capacity[corev1.ResourceMemory]
		systems[systemKey{status.NodeInfo.Architecture, cpu.Value(), memory.Value() >> 20}]++
		sizes[node.Namespace]++
	}
	groups := map[int]int{}
	for _, size := range sizes {
		groups[size]++
	}
	payload := struct {
		ManagedSystems  []systemRow  `json:"managedSystems"`
		ManagedClusters []clusterRow `json:"managedClusters"`
	}{}
	for key, count := range systems {
		payload.ManagedSystems = append(payload.ManagedSystems, systemRow{key, count})
	}
	for size, count := range groups {
		payload.ManagedClusters = append(payload.ManagedClusters, clusterRow{size, count})
	}
	body, err := json.Marshal(payload)
	if err != nil {
		panic(err)
	}
	return body
}

func tell(message map[string]interface{}) {
	line, err := json.Marshal(message)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}
