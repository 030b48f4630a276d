package conformance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/errdefs"
	"github.com/containerd/containerd/mount"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/snapshots"
)

// refLabel names the chain id that the unpacker is after.
const refLabel = "containerd.io/snapshot.ref"

// contract is a snapshotter under test, with helpers that end the test on an error.
type contract struct {
	*testing.T
	ctx context.Context
	in  *instance
	snapshots.Snapshotter
}

func newContract(t *testing.T) *contract {
	t.Helper()
	need(t)
	ctx := namespaces.WithNamespace(context.Background(), "contract")
	in, err := open(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.close(); err != nil {
			t.Error(err)
		}
	})
	return &contract{t, ctx, in, in.client()}
}

// key is a name as containerd's metadata store makes them: with slashes, a blank, a colon.
func key(name string) string { return "contract/7/extract-1-AbC= " + name }

func (c *contract) prepare(name, parent string, labels map[string]string) []mount.Mount {
	c.Helper()
	mounts, err := c.Prepare(c.ctx, key(name), parent, snapshots.WithLabels(labels))
	if err != nil {
		c.Fatal(err)
	}
	return mounts
}

func (c *contract) commit(name, active string, labels map[string]string) {
	c.Helper()
	if err := c.Commit(c.ctx, key(name), key(active), snapshots.WithLabels(labels)); err != nil {
		c.Fatal(err)
	}
}

// is fails unless an error is of a kind.
func (c *contract) is(what string, err error, kind func(error) bool) {
	c.Helper()
	if err == nil || !kind(err) {
		c.Errorf("%s: wrong or no error: %v", what, err)
	}
}

func list(ctx context.Context, sn snapshots.Snapshotter, filters ...string) (infos []snapshots.Info, err error) {
	err = sn.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		infos = append(infos, info)
		return nil
	}, filters...)
	return infos, err
}

// mounted runs a function over mounts, in a folder that is unmounted again.
func mounted(t *testing.T, mounts []mount.Mount, f func(root string) error) {
	t.Helper()
	dir := t.TempDir()
	if err := mount.All(mounts, dir); err != nil {
		t.Fatalf("mount %+v: %v", mounts, err)
	}
	err := f(dir)
	if unmountErr := mount.UnmountAll(dir, 0); err == nil {
		err = unmountErr
	}
	if err != nil {
		t.Fatal(err)
	}
}

func writeFile(name string, data []byte) func(string) error {
	return func(root string) error { return os.WriteFile(filepath.Join(root, name), data, 0o644) }
}

func TestNotFound(t *testing.T) {
	c := newContract(t)
	missing := key("missing")
	_, stat := c.Stat(c.ctx, missing)
	_, mounts := c.Mounts(c.ctx, missing)
	_, usage := c.Usage(c.ctx, missing)
	_, prepare := c.Prepare(c.ctx, key("orphan"), missing)
	_, update := c.Update(c.ctx, snapshots.Info{Name: missing, Labels: map[string]string{"a": "b"}})
	for what, err := range map[string]error{
		"Stat": stat, "Mounts": mounts, "Usage": usage, "Prepare over it": prepare, "Update": update,
		"Remove": c.Remove(c.ctx, missing), "Commit": c.Commit(c.ctx, key("c"), missing),
	} {
		c.is(what, err, errdefs.IsNotFound)
	}
	_, err := c.Stat(c.ctx, key("orphan"))
	c.is("the key of a failed Prepare", err, errdefs.IsNotFound)
}

func TestAlreadyExists(t *testing.T) {
	c := newContract(t)
	c.prepare("twice", "", nil)
	_, err := c.Prepare(c.ctx, key("twice"), "")
	c.is("Prepare twice", err, errdefs.IsAlreadyExists)
	_, err = c.View(c.ctx, key("twice"), "")
	c.is("View of a used key", err, errdefs.IsAlreadyExists)
	c.commit("name", "twice", nil)
	c.prepare("other", "", nil)
	c.is("Commit to a used name", c.Commit(c.ctx, key("name"), key("other")), errdefs.IsAlreadyExists)
	if _, err := c.Stat(c.ctx, key("other")); err != nil {
		t.Errorf("the active snapshot is gone after a failed Commit: %v", err)
	}
}

func TestPrecondition(t *testing.T) {
	c := newContract(t)
	c.prepare("active", "", nil)
	if _, err := c.Prepare(c.ctx, key("on-active"), key("active")); err == nil {
		t.Error("Prepare on an active parent: no error")
	}
	c.commit("base", "active", nil)
	c.prepare("child", key("base"), nil)
	c.is("Remove of a parent", c.Remove(c.ctx, key("base")), errdefs.IsFailedPrecondition)
	if _, err := c.Mounts(c.ctx, key("base")); err == nil {
		t.Error("Mounts of a committed snapshot: no error")
	}
	if _, err := c.View(c.ctx, key("view"), key("base")); err != nil {
		t.Fatal(err)
	}
	if err := c.Commit(c.ctx, key("from-view"), key("view")); err == nil {
		t.Error("Commit of a view: no error")
	}
}

// A layer that cannot be had lazily must be an ordinary one, and be found by the filter containerd sends.
func TestRefNotAvailable(t *testing.T) {
	c := newContract(t)
	digest := func(digit string) string { return "sha256:" + strings.Repeat(digit, 64) }
	labels := map[string]string{
		refLabel:                                     digest("0"),
		"containerd.io/snapshot/cri.image-ref":       "registry.invalid/none:1",
		"containerd.io/snapshot/cri.layer-digest":    digest("1"),
		"containerd.io/snapshot/cri.manifest-digest": digest("2"),
		"containerd.io/snapshot/cri.image-layers":    digest("1"),
	}
	mounts := c.prepare("ordinary", "", labels)
	if len(mounts) == 0 {
		t.Fatal("no mounts")
	}
	mounted(t, mounts, writeFile("f", []byte("x")))
	c.commit("committed", "ordinary", labels)
	found, err := list(c.ctx, c, fmt.Sprintf(`labels."%s"==%s,parent==""`, refLabel, digest("0")))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || found[0].Name != key("committed") || found[0].Kind != snapshots.KindCommitted {
		t.Fatalf("the filter by ref and parent gave %+v", found)
	}
	for name, value := range labels {
		if found[0].Labels[name] != value {
			t.Errorf("label %s is %q", name, found[0].Labels[name])
		}
	}
}

func TestLongestLabel(t *testing.T) {
	c := newContract(t)
	name := "containerd.io/snapshot/cri.image-layers"
	value := strings.Repeat("d", 4096-len(name))
	c.prepare("long", "", map[string]string{name: value})
	if info, err := c.Stat(c.ctx, key("long")); err != nil || info.Labels[name] != value {
		t.Errorf("label of 4096 bytes lost: %v", err)
	}
}

func TestUsage(t *testing.T) {
	c := newContract(t)
	mounted(t, c.prepare("active", "", nil), writeFile("f", make([]byte, 1<<20)))
	usage, err := c.Usage(c.ctx, key("active"))
	if err != nil || usage.Size < 1<<20 || usage.Inodes < 1 {
		t.Errorf("active: %+v %v", usage, err)
	}
	c.commit("committed", "active", nil)
	if usage, err = c.Usage(c.ctx, key("committed")); err != nil || usage.Size < 1<<20 {
		t.Errorf("committed: %+v %v", usage, err)
	}
	c.prepare("child", key("committed"), nil)
	if usage, err = c.Usage(c.ctx, key("child")); err != nil || usage.Size >= 1<<20 {
		t.Errorf("a child must not count its parent: %+v %v", usage, err)
	}
}

func TestMountsStable(t *testing.T) {
	c := newContract(t)
	first := c.prepare("active", "", nil)
	again, err := c.Mounts(c.ctx, key("active"))
	if err != nil || fmt.Sprint(first) != fmt.Sprint(again) {
		t.Errorf("Prepare said %v, Mounts %v, %v", first, again, err)
	}
}

func TestManyInList(t *testing.T) {
	c := newContract(t)
	const count = 250
	for n := 0; n < count; n++ {
		c.prepare(fmt.Sprintf("many-%03d", n), "", map[string]string{"many": "yes"})
	}
	found, err := list(c.ctx, c, "labels.many==yes")
	if err != nil || len(found) != count {
		t.Errorf("%d of %d, %v", len(found), count, err)
	}
}

func TestOneOfManyRacersWins(t *testing.T) {
	c := newContract(t)
	const racers = 32
	results := make([]error, racers)
	var all sync.WaitGroup
	for n := range results {
		all.Add(1)
		go func(n int) {
			defer all.Done()
			_, results[n] = c.Prepare(c.ctx, key("race"), "")
		}(n)
	}
	all.Wait()
	winners := 0
	for _, err := range results {
		if err == nil {
			winners++
		} else {
			c.is("a loser", err, errdefs.IsAlreadyExists)
		}
	}
	if winners != 1 {
		t.Errorf("%d winners", winners)
	}
}

func TestCleanup(t *testing.T) {
	c := newContract(t)
	c.prepare("kept", "", nil)
	if err := c.Snapshotter.(snapshots.Cleaner).Cleanup(c.ctx); err != nil && !errdefs.IsNotImplemented(err) {
		t.Error(err)
	}
}

func TestKillAndRestart(t *testing.T) {
	c := newContract(t)
	labels := map[string]string{"keep": "me"}
	mounted(t, c.prepare("first", "", labels), writeFile("f", []byte("kept")))
	c.commit("committed", "first", labels)
	c.prepare("active", key("committed"), nil)
	c.in.kill()
	if err := c.in.start(c.ctx); err != nil {
		t.Fatal(err)
	}
	after := c.in.client()
	info, err := after.Stat(c.ctx, key("committed"))
	if err != nil || info.Labels["keep"] != "me" || info.Kind != snapshots.KindCommitted {
		t.Fatalf("%+v %v", info, err)
	}
	mounts, err := after.Mounts(c.ctx, key("active"))
	if err != nil {
		t.Fatal(err)
	}
	mounted(t, mounts, func(root string) error {
		data, err := os.ReadFile(filepath.Join(root, "f"))
		if err == nil && string(data) != "kept" {
			err = fmt.Errorf("%q", data)
		}
		return err
	})
}
