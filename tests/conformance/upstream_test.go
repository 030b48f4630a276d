package conformance

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/metadata"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/testsuite"
	bolt "go.etcd.io/bbolt"
)

// TestSuite is containerd's suite straight over the socket.
func TestSuite(t *testing.T) {
	need(t)
	testsuite.SnapshotterSuite(t, snapshotterName, func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		in, err := open(ctx, root)
		if err != nil {
			return nil, nil, err
		}
		return in.client(), in.close, nil
	})
}

// TestMetadataSuite is the same through containerd's metadata store, so that names look as a real daemon makes them.
func TestMetadataSuite(t *testing.T) {
	need(t)
	testsuite.SnapshotterSuite(t, snapshotterName, func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		in, err := open(ctx, root)
		if err != nil {
			return nil, nil, err
		}
		db, closeDB, err := metadataStore(ctx, root, in)
		if err != nil {
			return nil, nil, err
		}
		return db.Snapshotter(snapshotterName), func() error { closeDB(); return in.close() }, nil
	})
}

// metadataStore is the part of containerd that stands between its clients and a snapshotter.
func metadataStore(ctx context.Context, dir string, in *instance) (*metadata.DB, func(), error) {
	file, err := bolt.Open(filepath.Join(dir, "metadata.db"), 0o660, nil)
	if err != nil {
		return nil, nil, err
	}
	db := metadata.NewDB(file, nil, map[string]snapshots.Snapshotter{snapshotterName: in.client()})
	if err := db.Init(ctx); err != nil {
		file.Close()
		return nil, nil, err
	}
	return db, func() { file.Close() }, nil
}
