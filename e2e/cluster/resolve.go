package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"
)

// Asks one DNS server for a name: `resolve ADDRESS:PORT NAME`.
func runResolve() {
	if len(os.Args) != 3 {
		fail(fmt.Errorf("usage: resolve ADDRESS:PORT NAME"))
	}
	server, name := os.Args[1], os.Args[2]
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", server)
	}}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	addresses, err := resolver.LookupHost(ctx, name)
	check(err)
	for _, address := range addresses {
		fmt.Println(address)
	}
}
