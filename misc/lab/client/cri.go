package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
)

// exitStatus is the status a command ended with inside a container.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// callTimeout bounds one call; a pull of a whole image on a slow disk is the longest.
const callTimeout = 10 * time.Minute

// criClient speaks to containerd's CRI plugin.
type criClient struct{ conn *grpc.ClientConn }

func dialCRI(ctx context.Context, address string) (*criClient, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	conn, err := grpc.DialContext(ctx, address, grpc.WithInsecure(), grpc.WithBlock(), //nolint:staticcheck // Debian 12's gRPC has no newer way
		grpc.WithContextDialer(func(ctx context.Context, path string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	return &criClient{conn}, nil
}

func (c *criClient) call(ctx context.Context, method string, request, answer interface{}) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := c.conn.Invoke(ctx, "/runtime.v1."+method, request, answer); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}

func (c *criClient) pull(ctx context.Context, ref string) error {
	var answer pullImageResponse
	request := &imageRequest{Image: &image{ref}}
	if *runtime != "" {
		// As kubelet passes on a pod's annotations.
		request.Sandbox = &sandboxConfig{Annotations: map[string]string{"io.containerd.cri.runtime-handler": *runtime}}
	}
	// Not an argument: those are for everybody to see.
	if username, password, found := strings.Cut(os.Getenv("LAB_PULL_AUTH"), ":"); found {
		request.Auth = &authConfig{Username: username, Password: password}
	}
	if err := c.call(ctx, "ImageService/PullImage", request, &answer); err != nil {
		return err
	}
	fmt.Println(answer.ImageRef)
	return nil
}

func (c *criClient) removeImage(ctx context.Context, ref string) error {
	return c.call(ctx, "ImageService/RemoveImage", &imageRequest{Image: &image{ref}}, &empty{})
}

// usage prints where images lie and how many bytes of them are there, which kubelet goes by when a disk fills.
func (c *criClient) usage(ctx context.Context) error {
	var answer imageFsInfoResponse
	if err := c.call(ctx, "ImageService/ImageFsInfo", &empty{}, &answer); err != nil {
		return err
	}
	for _, system := range answer.Filesystems {
		fmt.Println(system.ID.Mountpoint, system.Used.Value)
	}
	return nil
}

// podNamespaces are the host's network, so that no CNI plugin is needed; with -userns a user namespace, which cannot have that.
func podNamespaces() *namespaceOption {
	if *userns == 0 {
		return &namespaceOption{Network: namespaceNode}
	}
	ids := []*idMapping{{Host: uint32(*userns), Length: 65536}}
	return &namespaceOption{Userns: &userNamespace{Uids: ids, Gids: ids}}
}

// run starts a pod with one container. Without -keep it waits for the container's end, prints its
// output, removes the pod and ends with the container's exit status.
func (c *criClient) run(ctx context.Context, ref string, command []string) (err error) {
	logs, err := os.MkdirTemp("", "cri-logs-")
	if err != nil {
		return err
	}
	uid := filepath.Base(logs)
	namespaces := podNamespaces()
	pod := &sandboxConfig{
		Metadata:     &sandboxMetadata{Name: uid, UID: uid, Namespace: "lab"},
		LogDirectory: logs,
		Linux:        &linuxSandbox{CgroupParent: "/lacewing-lab", Security: &sandboxSecurity{namespaces}},
	}
	var sandbox id
	if err := c.call(ctx, "RuntimeService/RunPodSandbox", &runSandboxRequest{pod, *runtime}, &sandbox); err != nil {
		return err
	}
	if !*keep {
		defer os.RemoveAll(logs)
		defer func() {
			if removeErr := c.removeSandbox(ctx, sandbox.ID); err == nil {
				err = removeErr
			}
		}()
	}
	security := &containerSecurity{Namespaces: namespaces}
	if *user >= 0 {
		security.RunAsUser = &int64Value{*user}
	}
	config := &containerConfig{
		Metadata: &containerMetadata{Name: "container"},
		Image:    &image{ref},
		Command:  command,
		LogPath:  "log",
		Linux:    &linuxContainer{security},
	}
	if *volume != "" {
		config.Mounts = []*mount{{ContainerPath: "/volume", Readonly: true, Image: &image{*volume}}}
	}
	var container id
	if err := c.call(ctx, "RuntimeService/CreateContainer", &createContainerRequest{sandbox.ID, config, pod}, &container); err != nil {
		return err
	}
	if err := c.call(ctx, "RuntimeService/StartContainer", &id{container.ID}, &empty{}); err != nil {
		return err
	}
	if *keep {
		fmt.Println(sandbox.ID, container.ID)
		return nil
	}
	return c.wait(ctx, container.ID, filepath.Join(logs, "log"))
}

// wait waits for a container's end and prints its log, without CRI's prefix of time, stream and tag.
func (c *criClient) wait(ctx context.Context, container, log string) error {
	for {
		var answer containerStatusResponse
		if err := c.call(ctx, "RuntimeService/ContainerStatus", &id{container}, &answer); err != nil {
			return err
		}
		if answer.Status.State == containerExited {
			text, err := os.ReadFile(log)
			if err != nil {
				return err
			}
			for _, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
				if fields := strings.SplitN(line, " ", 4); len(fields) == 4 {
					fmt.Println(fields[3])
				}
			}
			if answer.Status.ExitCode != 0 {
				return exitStatus(answer.Status.ExitCode)
			}
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (c *criClient) exec(ctx context.Context, container string, command []string) error {
	var answer execResponse
	request := &execRequest{Container: container, Command: command, Timeout: 300}
	if err := c.call(ctx, "RuntimeService/ExecSync", request, &answer); err != nil {
		return err
	}
	os.Stdout.Write(answer.Stdout)
	os.Stderr.Write(answer.Stderr)
	if answer.ExitCode != 0 {
		return exitStatus(answer.ExitCode)
	}
	return nil
}

func (c *criClient) removeSandbox(ctx context.Context, sandbox string) error {
	if err := c.call(ctx, "RuntimeService/StopPodSandbox", &id{sandbox}, &empty{}); err != nil {
		return err
	}
	return c.call(ctx, "RuntimeService/RemovePodSandbox", &id{sandbox}, &empty{})
}
