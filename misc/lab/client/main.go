// Command client does what containerd's clients do, in the two ways that `ctr` of containerd 1.6 cannot: it pulls with
// unpack, as nerdctl does under any snapshotter name, and it speaks CRI, as the kubelet does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
)

const usage = `usage: client -a SOCKET [-n NAMESPACE] pull SNAPSHOTTER IMAGE
       client -a SOCKET cri-pull IMAGE
       client -a SOCKET [-user UID] [-keep] cri-run IMAGE [COMMAND...]
       client -a SOCKET cri-exec CONTAINER COMMAND...
       client -a SOCKET cri-remove SANDBOX
       client -a SOCKET cri-remove-image IMAGE
       client -a SOCKET cri-usage`

var (
	address   = flag.String("a", "/run/containerd/containerd.sock", "containerd's socket")
	namespace = flag.String("n", "default", "containerd namespace of pull")
	user      = flag.Int64("user", -1, "user id of cri-run (-1: the image's own)")
	volume    = flag.String("volume", "", "cri-run: an image to be mounted at /volume")
	runtime   = flag.String("runtime", "", "cri-pull, cri-run: the runtime class's handler")
	userns    = flag.Uint("userns", 0, "cri-run: the first of 65536 ids of a user namespace, with a network of the pod's own (0: the host's)")
	keep      = flag.Bool("keep", false, "cri-run: leave the container running and print the sandbox's and its id")
)

var errUsage = errors.New(usage)

func run(ctx context.Context, args []string) error {
	if len(args) < 1 || len(args) < 2 && args[0] != "cri-usage" {
		return errUsage
	}
	command, args := args[0], args[1:]
	if command == "pull" {
		if len(args) != 2 {
			return errUsage
		}
		return pull(ctx, *address, *namespace, args[0], args[1])
	}
	cri, err := dialCRI(ctx, *address)
	if err != nil {
		return err
	}
	switch command {
	case "cri-pull":
		return cri.pull(ctx, args[0])
	case "cri-run":
		return cri.run(ctx, args[0], args[1:])
	case "cri-exec":
		return cri.exec(ctx, args[0], args[1:])
	case "cri-remove":
		return cri.removeSandbox(ctx, args[0])
	case "cri-usage":
		return cri.usage(ctx)
	case "cri-remove-image":
		return cri.removeImage(ctx, args[0])
	}
	return errUsage
}

func main() {
	flag.Parse()
	err := run(context.Background(), flag.Args())
	var status exitStatus
	switch {
	case errors.As(err, &status):
		os.Exit(int(status))
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
