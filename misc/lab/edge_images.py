"""Images made of the odd layers of `edge`."""

from . import edge
from .images import Image, shell, write_busybox
from .oci import GZIP, PLAIN, ZSTD, Layout

READY = shell("ls -lR /bin /etc >/dev/null; echo ready")


def odd(layout: Layout) -> list[Image]:
    """One image with everything that containerd accepts, in layers of every compression."""
    layers = [
        layout.layer(write_busybox),
        layout.layer(edge.links),
        layout.layer(edge.names, member_bytes=100_000),
        layout.layer(lambda tar: None),
        layout.layer(edge.escapes, PLAIN),
        layout.layer(edge.attributes, ZSTD),
        layout.layer(edge.contents),
        layout.layer(edge.marks_below),
        layout.layer(edge.marks, end=False),
        layout.layer(lambda tar: None),
        layout.layer(edge.replacements, PLAIN, end=False),
        layout.layer(edge.formats, member_bytes=512),
    ]
    layout.image("edge", layers, {"Cmd": READY})
    return [Image("edge", READY, "hard links, names, escapes, attributes, sizes, marks, replacements, formats")]


def twice(layout: Layout) -> list[Image]:
    """The same layer twice, with another in between that changes what the first brought."""
    same = layout.layer(edge.contents)
    layers = [layout.layer(write_busybox), same, layout.layer(edge.changed_contents), same]
    layout.image("twice", layers, {"Cmd": READY})
    return [Image("twice", READY, "the same layer twice")]


def hundred_layers(layout: Layout) -> list[Image]:
    layers = [layout.layer(write_busybox), *(layout.layer(edge.one_layer_of_many(n)) for n in range(99))]
    layout.image("layers-100", layers, {"Cmd": READY})
    return [Image("layers-100", READY, "100 layers")]


def refused(layout: Layout) -> list[Image]:
    """What containerd's unpack refuses, with a word that the refusal must hold."""
    bottom = layout.layer(write_busybox)
    images = []
    for name, fill, word in (("refused-contiguous", edge.contiguous, "contiguous"), ("refused-sparse", edge.gnu_sparse, "sparse"),
                             ("refused-link", edge.link_to_lower, "busybox"),
                             ("refused-whiteout", edge.whiteout_after, "brought")):
        layout.image(name, [bottom, layout.layer(fill, GZIP)], {"Cmd": READY})
        images.append(Image(name, [], "refused by containerd", refused=word))
    return images
