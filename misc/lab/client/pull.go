package main

import (
	"context"
	"fmt"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/remotes/docker"
)

// pull fetches an image and unpacks it with a snapshotter. It gives the layers no cri.* labels: what the snapshotter
// learns is what the unpacker always sends, the chain id and the layer's own containerd.io/snapshot/ annotations.
func pull(ctx context.Context, address, namespace, snapshotter, image string) error {
	client, err := containerd.New(address)
	if err != nil {
		return err
	}
	defer client.Close()
	resolver := docker.NewResolver(docker.ResolverOptions{
		Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost)),
	})
	pulled, err := client.Pull(namespaces.WithNamespace(ctx, namespace), image,
		containerd.WithResolver(resolver),
		containerd.WithPullUnpack,
		containerd.WithPullSnapshotter(snapshotter))
	if err != nil {
		return err
	}
	fmt.Println(pulled.Target().Digest)
	return nil
}
