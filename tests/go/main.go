// SPDX-License-Identifier: Apache-2.0
//
// A client of hld that shares nothing with it: containerd's own ttrpc library, as Debian ships it,
// and messages that protoc generated from proto/hl.proto. It calls the echo image and prints what
// came back; see tests/integration/test_clients.py for how it is built.
package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	hlv1 "hl/v1"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func echo(client *ttrpc.Client, ctx context.Context, payload []byte) ([]byte, error) {
	request := hlv1.InvokeRequest{
		Image:    "echo",
		Function: "echo",
		Args:     []*hlv1.Value{{Kind: &hlv1.Value_Data{Data: payload}}},
	}
	var response hlv1.InvokeResponse

	if err := client.Call(ctx, "hl.v1.Functions", "Invoke", &request, &response); err != nil {
		return nil, err
	}
	if response.GetAccounting().GetRunNs() == 0 {
		return nil, fmt.Errorf("no accounting: %v", response.GetAccounting())
	}
	return response.GetResult().GetData(), nil
}

func check(client *ttrpc.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	for size := 1; size <= 1<<16; size *= 4 {
		payload := bytes.Repeat([]byte{byte(size)}, size)
		answer, err := echo(client, ctx, payload)
		if err != nil {
			return err
		}
		if !bytes.Equal(answer, payload) {
			return fmt.Errorf("echo of %d bytes came back with %d others", size, len(answer))
		}
	}

	// Many at once on one connection: each answer belongs to its own question.
	var wait sync.WaitGroup
	errors := make(chan error, 64)
	for i := 0; i < cap(errors); i++ {
		wait.Add(1)
		go func(i int) {
			defer wait.Done()
			payload := []byte(fmt.Sprintf("call %d", i))
			answer, err := echo(client, ctx, payload)
			if err == nil && !bytes.Equal(answer, payload) {
				err = fmt.Errorf("%q came back as %q", payload, answer)
			}
			if err != nil {
				errors <- err
			}
		}(i)
	}
	wait.Wait()
	close(errors)
	if err := <-errors; err != nil {
		return err
	}

	// A refusal carries its status.
	request := hlv1.InvokeRequest{Image: "no-such-image", Function: "f"}
	err := client.Call(ctx, "hl.v1.Functions", "Invoke", &request, &hlv1.InvokeResponse{})
	if status.Code(err) != codes.NotFound {
		return fmt.Errorf("an unknown image gives %v, not NotFound", err)
	}
	return nil
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: client SOCKET")
		os.Exit(2)
	}
	connection, err := net.Dial("unix", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	client := ttrpc.NewClient(connection)
	defer client.Close()
	if err := check(client); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("ok")
}
