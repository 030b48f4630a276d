// Serves stargz-snapshotter as a proxy plugin of containerd, from the library that Debian packages (Debian leaves its daemon out).
//
// usage: stargz ROOT SOCKET
package main

import (
	"context"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/contrib/snapshotservice"
	"github.com/containerd/containerd/reference"
	"github.com/containerd/containerd/remotes/docker"
	"github.com/containerd/stargz-snapshotter/fs"
	"github.com/containerd/stargz-snapshotter/fs/config"
	"github.com/containerd/stargz-snapshotter/fs/source"
	"github.com/containerd/stargz-snapshotter/snapshot"
	"google.golang.org/grpc"
)

// plainHTTP answers for every reference that its own host serves it, unencrypted: the lab's registry.
func plainHTTP(ref reference.Spec) ([]docker.RegistryHost, error) {
	// The library takes the client's transport apart, so it has to be there.
	client := &http.Client{Transport: http.DefaultTransport}
	return docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchAllHosts), docker.WithClient(client))(ref.Hostname())
}

// fromCRILabels reads the labels that containerd gives snapshotters since 1.4 as those that stargz-snapshotter's own client sets.
func fromCRILabels(labels map[string]string) ([]source.Source, error) {
	own := map[string]string{
		"containerd.io/snapshot/remote/stargz.reference": labels["containerd.io/snapshot/cri.image-ref"],
		"containerd.io/snapshot/remote/stargz.digest":    labels["containerd.io/snapshot/cri.layer-digest"],
		"containerd.io/snapshot/remote/stargz.layers":    labels["containerd.io/snapshot/cri.image-layers"],
	}
	return source.FromDefaultLabels(plainHTTP)(own)
}

func serve(root, socket string) error {
	filesystem, err := fs.NewFilesystem(filepath.Join(root, "stargz"), config.Config{}, fs.WithGetSources(fromCRILabels))
	if err != nil {
		return err
	}
	snapshotter, err := snapshot.NewSnapshotter(context.Background(), filepath.Join(root, "snapshotter"), filesystem, snapshot.AsynchronousRemove)
	if err != nil {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	return server.Serve(listener)
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: stargz ROOT SOCKET")
	}
	log.Fatal(serve(os.Args[1], os.Args[2]))
}
