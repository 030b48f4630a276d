"""The demonstration behind `misc/demo`: one image, pulled and run with overlayfs and lazily, from empty stores."""

import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from . import corpus, tool
from .nodes import Containerd
from .process import run
from .registry import Registry
from .scratch import Lab

MB = 1_000_000


@dataclass
class Outcome:
    """How one way of starting the container went."""

    pull_s: float
    ready_s: float  # from the start of the pull
    fetched: int  # bytes the registry sent until then
    output: str


def bytes_sent(registry: Registry) -> int:
    """Bytes of all answers so far, by the registry's access log."""
    text = registry.process.log.read_text(errors="replace")
    return sum(int(size) for size in re.findall(r'"GET \S+ HTTP/[\d.]+" 20[06] (\d+)', text))


def start(registry: Registry, node: Containerd, reference: str, snapshotter: str, ready: list[str]) -> Outcome:
    run("sync")
    Path("/proc/sys/vm/drop_caches").write_text("3")
    before, begin = bytes_sent(registry), time.monotonic()
    node.pull(reference, snapshotter)
    pulled = time.monotonic()
    output = node.run(reference, snapshotter, f"demo-{snapshotter}", *ready)
    end = time.monotonic()
    return Outcome(pulled - begin, end - begin, bytes_sent(registry) - before, output.strip().splitlines()[-1])


def show(label: str, outcome: Outcome) -> None:
    print(f"  {label:24} {outcome.pull_s:8.2f} s {outcome.ready_s:9.2f} s {outcome.fetched / MB:12.1f} MB   {outcome.output}")


def main(name: str = "python") -> int:
    print(f"== building the image {name} from distribution packages")
    layout, images = corpus.build(name, "small")
    image = images[name]
    with Lab("demo") as lab:
        registry = lab.registry()
        registry.push(layout, "pause", "pause", "1")
        plain = registry.push(layout, name, name, "1")
        lazy = f"{registry.address}/{name}:lazy"
        print(f"== lacewing convert {plain} {lazy}")
        report = tool.convert(plain, lazy)
        print(f"   {report['plain_len'] / MB:.0f} MB plain; layers {report['layer_len'] / MB:.0f} MB, "
              f"lazy form {(report['blob_len'] + report['index_len']) / MB:.0f} MB; {report['wall_seconds']:.1f} s")
        print("== pull and run, from empty stores, under containerd 2.x")
        print(f"  {'':24} {'pulled':>10} {'ready':>11} {'fetched':>15}   the container says")
        ordinary = start(registry, lab.containerd(2, registry), plain, "overlayfs", image.ready)
        show("overlayfs", ordinary)
        daemon, node = lab.node(2, registry, background=False)
        lazily = start(registry, node, lazy, "lacewing", image.ready)
        show("lacewing", lazily)
        digests = {layer["digest"] for layer in registry.image_manifest(name, "1")["layers"]}
        in_store = digests & node.content()
        print(f"\n  layers in containerd's content store: {len(in_store)} of {len(digests)}")
        for layer in daemon.status()["layers"]:
            state = "lazy" if layer["lazy"] else f"ordinary: {layer['reason']}"
            print(f"  layer {layer['layer_digest'][7:19]}  {layer['bytes_present'] / MB:7.1f} of {layer['bytes_total'] / MB:7.1f} MB here  {state}")
        print(f"\n  {ordinary.ready_s / lazily.ready_s:.1f} times as fast to ready, "
              f"{ordinary.fetched / max(lazily.fetched, 1):.1f} times fewer bytes; the rest comes in the background (here: off)")
        return 1 if in_store else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
