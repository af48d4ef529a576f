package main

import (
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// One member, no peers, plain HTTP on loopback: its only client is the API server.
func runEtcd() {
	data := flag.String("data-dir", "", "folder of the data")
	client := flag.Int("client-port", 0, "port for clients, on 127.0.0.1")
	peer := flag.Int("peer-port", 0, "port for peers, on 127.0.0.1")
	flag.Parse()

	config := embed.NewConfig()
	config.Dir = *data
	config.ListenClientUrls, config.AdvertiseClientUrls = local(*client), local(*client)
	config.ListenPeerUrls, config.AdvertisePeerUrls = local(*peer), local(*peer)
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.LogLevel = "warn"
	config.WarningUnaryRequestDuration = time.Second
	// What a test writes need not outlive a power cut, and disks are slow at being sure.
	config.UnsafeNoFsync = true

	server, err := embed.StartEtcd(config)
	if err != nil {
		fail(err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-stop:
	case err = <-server.Err():
	}
	server.Close()
	if err != nil {
		fail(err)
	}
}

func local(port int) []url.URL {
	return []url.URL{{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", port)}}
}
