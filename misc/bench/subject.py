"""The image that is measured: a Python distribution of about 500 MB and 20,000 files, converted, unpacked, and as a RAFS."""

import gzip
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from lab import corpus
from lab.paths import lacewing
from lab.process import run

from .contenders import Ext4, build_nydus
from .cpu import cost


@dataclass
class Subject:
    """Files and folders that the rows work on."""

    folder: Path
    source: str  # oci:DIR:TAG of the ordinary image
    second: str  # a later version of it
    converted: str  # the converted image
    layers: list[Path]  # plain tars, bottom first
    second_layers: list[Path]
    tree: Path  # the united tree as a plain directory
    nydus: Path | None  # RAFS image, if Nydus is here
    binaries: Path | None
    plain_bytes: int

    def converted_report(self) -> dict:
        return json.loads((self.folder / "convert.json").read_text())


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def plain_layers(layout: Path, tag: str, target: Path) -> list[Path]:
    """Unpacks an image's gzip layers to tar files."""
    index = json.loads((layout / "index.json").read_text())
    named = [m for m in index["manifests"] if m.get("annotations", {}).get("org.opencontainers.image.ref.name") == tag]
    manifest = json.loads(_blob(layout, named[0]["digest"]).read_text())
    target.mkdir(parents=True, exist_ok=True)
    tars = []
    for number, layer in enumerate(manifest["layers"], 1):
        tar = target / f"{number}.tar"
        with gzip.open(_blob(layout, layer["digest"])) as packed, tar.open("wb") as plain:
            shutil.copyfileobj(packed, plain, 1 << 20)
        tars.append(tar)
    return tars


def prepare(folder: Path, binaries: Path | None) -> Subject:
    """Builds whatever is not there yet."""
    corpus.build("python")
    layout = corpus.FOLDER
    layers = plain_layers(layout, "python", folder / "layers")
    second_layers = plain_layers(layout, "python-2", folder / "layers-2")
    converted = folder / "converted"
    shutil.rmtree(converted, ignore_errors=True)
    source, second = f"oci:{layout}:python", f"oci:{layout}:python-2"
    report = run(lacewing(), "convert", "--json", source, f"oci:{converted}:v1")
    (folder / "convert.json").write_text(report[report.index("{"):])
    run(lacewing(), "check", f"oci:{converted}:v1")
    tree = folder / "tree"
    if not tree.exists():
        root = Ext4(folder / "unpack", layers)
        run("cp", "-a", root.path, tree)
        root.close()
        shutil.rmtree(root.folder)
    nydus = None
    if binaries:
        nydus = folder / "nydus"
        if not (nydus / "bootstrap").exists():
            cost(build_nydus(binaries, tree, nydus))
    return Subject(folder, source, second, f"oci:{converted}:v1", layers, second_layers, tree, nydus, binaries,
                   sum(tar.stat().st_size for tar in layers))
