// What the test of the cluster deploys: a server that tells its host's name, and a client for it.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	if len(os.Args) > 1 { // hello URL
		client := http.Client{Timeout: 5 * time.Second}
		response, err := client.Get(os.Args[1])
		if err == nil {
			_, err = io.Copy(os.Stdout, response.Body)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	name, _ := os.Hostname()
	fmt.Println("serving as", name)
	err := http.ListenAndServe(":8080", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, name)
	}))
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
