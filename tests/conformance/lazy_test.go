package conformance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/errdefs"
	"github.com/containerd/containerd/metadata"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/snapshots"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

var imageFile = flag.String("image", "", "JSON file that describes a converted image: turns TestLazyPull on")

// lazyImage is a converted image, as its manifest and config tell it.
type lazyImage struct {
	Reference string
	Manifest  string
	Layers    []struct {
		DiffID      digest.Digest
		Digest      string
		Annotations map[string]string
	}
	Files map[string]string // path to SHA-256 of content
}

func (image *lazyImage) chains() (chains []string) {
	var diffs []digest.Digest
	for _, layer := range image.Layers {
		diffs = append(diffs, layer.DiffID)
		chains = append(chains, identity.ChainID(diffs).String())
	}
	return chains
}

// node is containerd as far as a pull needs it.
type node struct {
	*testing.T
	image *lazyImage
	in    *instance
	db    *metadata.DB
	snapshots.Snapshotter
}

// gcRoot keeps the garbage collector off.
var gcRoot = map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)}

// labels are what containerd's unpacker sends for a layer.
func (image *lazyImage) labels(n int, chain string, cri bool) map[string]string {
	labels := map[string]string{refLabel: chain}
	for key, value := range gcRoot {
		labels[key] = value
	}
	for key, value := range image.Layers[n].Annotations {
		if strings.HasPrefix(key, "containerd.io/snapshot/") {
			labels[key] = value
		}
	}
	if cri {
		var above []string
		for _, layer := range image.Layers[n:] {
			above = append(above, layer.Digest)
		}
		labels["containerd.io/snapshot/cri.image-ref"] = image.Reference
		labels["containerd.io/snapshot/cri.manifest-digest"] = image.Manifest
		labels["containerd.io/snapshot/cri.layer-digest"] = image.Layers[n].Digest
		labels["containerd.io/snapshot/cri.image-layers"] = strings.Join(above, ",")
	}
	return labels
}

// pull does for each layer what containerd's unpacker does.
func (n *node) pull(ctx context.Context) {
	n.Helper()
	parent := ""
	for i, chain := range n.image.chains() {
		key := fmt.Sprintf(snapshots.UnpackKeyFormat, fmt.Sprintf("%d-AbCd", i), chain)
		mounts, err := n.Prepare(ctx, key, parent, snapshots.WithLabels(n.image.labels(i, chain, true)))
		if !errdefs.IsAlreadyExists(err) {
			n.Fatalf("layer %d is not lazy: mounts %v, error %v", i, mounts, err)
		}
		info, err := n.Stat(ctx, chain)
		if err != nil || info.Kind != snapshots.KindCommitted || info.Parent != parent {
			n.Fatalf("layer %d: Stat of its chain id: %+v %v", i, info, err)
		}
		if _, err := n.Usage(ctx, chain); err != nil {
			n.Errorf("layer %d: Usage: %v", i, err)
		}
		parent = chain
	}
}

func (n *node) top() string {
	chains := n.image.chains()
	return chains[len(chains)-1]
}

// run mounts a container's root, reads the known files, writes one, and sees that it does not reach a view.
func (n *node) run(ctx context.Context) {
	n.Helper()
	mounts, err := n.Prepare(ctx, "container", n.top(), snapshots.WithLabels(gcRoot))
	if err != nil {
		n.Fatal(err)
	}
	mounted(n.T, mounts, func(root string) error {
		for path, sum := range n.image.Files {
			data, err := os.ReadFile(filepath.Join(root, path))
			if err != nil {
				return err
			}
			if found := sha256.Sum256(data); hex.EncodeToString(found[:]) != sum {
				return fmt.Errorf("%s: wrong content", path)
			}
		}
		return os.WriteFile(filepath.Join(root, "written"), []byte("w"), 0o644)
	})
	if mounts, err = n.View(ctx, "view", n.top(), snapshots.WithLabels(gcRoot)); err != nil {
		n.Fatal(err)
	}
	mounted(n.T, mounts, func(root string) error {
		if _, err := os.Stat(filepath.Join(root, "written")); !os.IsNotExist(err) {
			return fmt.Errorf("the container's write reached the image: %v", err)
		}
		return nil
	})
}

// drop removes what pull and run made.
func (n *node) drop(ctx context.Context) {
	n.Helper()
	keys := []string{"container", "view"}
	for chains := n.image.chains(); len(chains) > 0; chains = chains[:len(chains)-1] {
		keys = append(keys, chains[len(chains)-1])
	}
	for _, key := range keys {
		if err := n.Remove(ctx, key); err != nil {
			n.Fatal(err)
		}
	}
}

func (n *node) collect() {
	n.Helper()
	if _, err := n.db.GarbageCollect(context.Background()); err != nil {
		n.Fatal(err)
	}
}

// TestLazyPull pulls a converted image in two namespaces, runs a container in each, and removes all.
func TestLazyPull(t *testing.T) {
	need(t)
	if *imageFile == "" {
		t.Skip("give -image")
	}
	text, err := os.ReadFile(*imageFile)
	if err != nil {
		t.Fatal(err)
	}
	image := new(lazyImage)
	if err := json.Unmarshal(text, image); err != nil {
		t.Fatal(err)
	}
	one := namespaces.WithNamespace(context.Background(), "one")
	two := namespaces.WithNamespace(context.Background(), "two")
	in, err := open(one, "")
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	db, closeDB, err := metadataStore(one, t.TempDir(), in)
	if err != nil {
		t.Fatal(err)
	}
	defer closeDB()
	for _, step := range []struct {
		name string
		do   func(n *node)
	}{
		{"Pull", func(n *node) { n.pull(one); n.run(one) }},
		{"PullAgain", func(n *node) { n.pull(one) }},
		{"OtherNamespace", func(n *node) { n.pull(two); n.run(two) }},
		{"CollectOneOfTwo", func(n *node) {
			n.drop(two)
			n.collect()
			if _, err := n.Mounts(one, "container"); err != nil {
				n.Errorf("the other namespace's container is gone: %v", err)
			}
		}},
		{"CollectAll", func(n *node) {
			n.drop(one)
			n.collect()
			if left, err := list(one, in.client()); err != nil || len(left) != 0 {
				n.Errorf("left: %+v %v", left, err)
			}
		}},
	} {
		ok := t.Run(step.name, func(t *testing.T) { step.do(&node{t, image, in, db, db.Snapshotter(snapshotterName)}) })
		if !ok {
			return
		}
	}
}
