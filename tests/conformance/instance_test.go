// Package conformance runs containerd's own snapshotter suite, and tests of what containerd relies on beyond it, against
// a snapshotter behind a unix socket. One fresh process per test: the upstream suite uses fixed keys.
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go test -c -o suite .
//	./suite -test.root -test.v -spawn 'lacewing daemon --root {root} --address {sock}'
package conformance

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	_ "github.com/containerd/containerd/pkg/testutil" // registers -test.root
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/proxy"
	"google.golang.org/grpc"
)

var (
	spawn   = flag.String("spawn", "", "command that starts a snapshotter; {root} and {sock} are replaced")
	scratch = flag.String("scratch", "", "folder for roots, on a file system that can hold overlay's upper directories")
	wait    = flag.Duration("wait", 60*time.Second, "how long to wait for the socket")
)

const (
	snapshotterName = "lacewing"
	stopTimeout     = 15 * time.Second
)

// instance is a snapshotter process with a folder of its own.
type instance struct {
	dir, root, sock string
	cmd             *exec.Cmd
	exited          chan struct{}
	conn            *grpc.ClientConn
}

// open starts a snapshotter. Its root lies below at, or below its own folder if at is empty.
func open(ctx context.Context, at string) (*instance, error) {
	dir, err := os.MkdirTemp(*scratch, "s-") // short: a socket's path has at most 107 bytes
	if err != nil {
		return nil, err
	}
	if at == "" {
		at = dir
	}
	in := &instance{dir: dir, root: filepath.Join(at, "root"), sock: filepath.Join(dir, "s")}
	if err := os.MkdirAll(in.root, 0o700); err != nil {
		return nil, err
	}
	if err := in.start(ctx); err != nil {
		in.close()
		return nil, err
	}
	return in, nil
}

func (in *instance) start(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(in.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	in.cmd = exec.Command("sh", "-c", "exec "+strings.NewReplacer("{root}", in.root, "{sock}", in.sock).Replace(*spawn))
	in.cmd.Stdout, in.cmd.Stderr = log, log
	in.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := in.cmd.Start(); err != nil {
		return err
	}
	in.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) { cmd.Wait(); close(exited) }(in.cmd, in.exited)
	in.conn, err = in.dial(ctx)
	if err != nil {
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%w\n%s", err, text)
	}
	return nil
}

func (in *instance) dial(ctx context.Context) (*grpc.ClientConn, error) {
	ctx, cancel := context.WithTimeout(ctx, *wait)
	defer cancel()
	for {
		conn, err := net.Dial("unix", in.sock)
		if err == nil {
			conn.Close()
			break
		}
		select {
		case <-in.exited:
			return nil, fmt.Errorf("the snapshotter ended: %w", err)
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w", in.sock, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return grpc.DialContext(ctx, in.sock, grpc.WithInsecure(), grpc.WithBlock(), //nolint:staticcheck // Debian 12's gRPC has no newer way
		grpc.WithContextDialer(func(ctx context.Context, path string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}))
}

func (in *instance) client() snapshots.Snapshotter {
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(in.conn), snapshotterName)
}

func (in *instance) disconnect() {
	if in.conn != nil {
		in.conn.Close()
		in.conn = nil
	}
}

// stop ends the process as an administrator would.
func (in *instance) stop() {
	in.disconnect()
	if in.cmd == nil {
		return
	}
	in.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-in.exited:
	case <-time.After(stopTimeout):
	}
	in.kill()
}

// kill ends the process and those it started, at once, as a power cut would.
func (in *instance) kill() {
	in.disconnect()
	if in.cmd == nil {
		return
	}
	pid := in.cmd.Process.Pid
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	syscall.Kill(-pid, syscall.SIGKILL)
	<-in.exited
	for _, child := range strings.Fields(string(children)) {
		if id, err := strconv.Atoi(child); err == nil {
			syscall.Kill(id, syscall.SIGKILL)
		}
	}
	in.cmd = nil
}

// close stops the process and removes what it leaves, mounts included.
func (in *instance) close() error {
	in.stop()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var points []string
	for _, line := range strings.Split(string(table), "\n") {
		fields := strings.Fields(line)
		if len(fields) > 4 && (strings.HasPrefix(fields[4], in.dir+"/") || strings.HasPrefix(fields[4], in.root+"/")) {
			points = append(points, fields[4])
		}
	}
	sort.Sort(sort.Reverse(sort.StringSlice(points)))
	for _, point := range points {
		syscall.Unmount(point, syscall.MNT_DETACH)
	}
	return os.RemoveAll(in.dir)
}

// need skips a test that has no snapshotter to talk to.
func need(t *testing.T) {
	t.Helper()
	if *spawn == "" {
		t.Skip("give -spawn")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
}
