"""The images that are measured. One is a Python distribution of about 500 MB and 20,000 files: converted, unpacked, and as
a RAFS. The other is the same with a database of 256 MiB in a layer of its own, for what takes a large file to measure."""

import gzip
import json
import os
import random
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from lab import corpus
from lab.oci import GZIP, LAYER_TYPE, Layer, Layout
from lab.paths import lacewing
from lab.process import run

from .contenders import Ext4, build_nydus
from .cpu import cost

DATABASE_BYTES = 256 << 20
DATABASE = "srv/data/catalogue.db"


@dataclass
class Image:
    """One image in all the forms that are compared."""

    source: str  # oci:DIR:TAG of the ordinary image
    converted: str
    layers: list[Path]  # plain tars, bottom first
    tree: Path  # the united tree as a plain directory
    nydus: Path | None  # RAFS image, if Nydus is here
    plain_bytes: int


@dataclass
class Subject:
    """Files and folders that the rows work on."""

    folder: Path
    usual: Image
    large: Image  # `usual` with the database
    second: str  # a later version of `usual`
    second_layers: list[Path]
    binaries: Path | None  # Nydus


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _manifest(layout: Path, tag: str) -> dict:
    index = json.loads((layout / "index.json").read_text())
    named = [m for m in index["manifests"] if m.get("annotations", {}).get("org.opencontainers.image.ref.name") == tag]
    return json.loads(_blob(layout, named[0]["digest"]).read_text())


def plain_layers(layout: Path, tag: str, target: Path) -> list[Path]:
    """Unpacks an image's gzip layers to tar files."""
    target.mkdir(parents=True, exist_ok=True)
    tars = []
    for number, layer in enumerate(_manifest(layout, tag)["layers"], 1):
        tar = target / f"{number}.tar"
        with gzip.open(_blob(layout, layer["digest"])) as packed, tar.open("wb") as plain:
            shutil.copyfileobj(packed, plain, 1 << 20)
        tars.append(tar)
    return tars


def database(path: Path) -> Path:
    """A database of articles and readings: text, numbers and an index, which compress as such files do (to two fifths)."""
    if path.exists():
        return path
    made = path.with_suffix(".new")
    made.unlink(missing_ok=True)
    chance = random.Random(1)
    letters = [chance.choice("aeiou") if n % 2 else chance.choice("bcdfghklmnprstvw") for n in range(100_000)]
    words = ["".join(letters[at:at + 2 + at % 9]) for at in range(0, 90_000, 11)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    with sqlite3.connect(made) as db:
        db.execute("PRAGMA journal_mode=OFF")
        db.execute("CREATE TABLE article (id INTEGER PRIMARY KEY, title TEXT, price REAL, stock INTEGER, body TEXT)")
        db.execute("CREATE INDEX title ON article (title)")
        while made.stat().st_size < DATABASE_BYTES:
            text = chance.choices(words, weights, k=20_000 * 24)
            db.executemany("INSERT INTO article (title, price, stock, body) VALUES (?, ?, ?, ?)", (
                (" ".join(text[at:at + 3]), chance.random() * 1000, chance.getrandbits(20), " ".join(text[at + 3:at + 24]))
                for at in range(0, len(text), 24)))
            db.commit()
    made.rename(path)
    return path


def _large_source(folder: Path, usual: Path, tag: str) -> str:
    """The image with the database, in a layout of its own that shares the other's blobs."""
    layout = Layout(folder / "large-source")
    if not (folder / "large-source/done").exists():
        manifest = _manifest(usual, tag)
        config = json.loads(_blob(usual, manifest["config"]["digest"]).read_text())
        layers = []
        for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"]):
            shutil.copyfile(_blob(usual, layer["digest"]), layout.blob_path(layer["digest"]))
            layers.append(Layer(LAYER_TYPE + GZIP, layer["digest"], layer["size"], diff_id, 0))
        with database(folder / "catalogue.db").open("rb") as content:
            size = os.fstat(content.fileno()).st_size
            layers.append(layout.layer(lambda tar: tar.add(DATABASE, file=content, size=size)))
        layout.image("large", layers)
        (folder / "large-source/done").touch()
    return f"oci:{layout.folder}:large"


def _image(folder: Path, name: str, source: str, binaries: Path | None) -> Image:
    """Brings an image into all its forms; what is there already stays, except what the program under test makes."""
    layout, tag = source.split(":")[1:]
    layers = plain_layers(Path(layout), tag, folder / f"layers-{name}")
    converted = folder / f"converted-{name}"
    shutil.rmtree(converted, ignore_errors=True)
    run(lacewing(), "convert", source, f"oci:{converted}:v1")
    run(lacewing(), "check", f"oci:{converted}:v1")
    tree = folder / f"tree-{name}"
    if not tree.exists():
        root = Ext4(folder / "unpack", layers)
        run("cp", "-a", root.path, tree)
        root.close()
        shutil.rmtree(root.folder)
    nydus = None
    if binaries:
        nydus = folder / f"nydus-{name}"
        if not (nydus / "bootstrap").exists():
            cost(build_nydus(binaries, tree, nydus))
    return Image(source, f"oci:{converted}:v1", layers, tree, nydus, sum(tar.stat().st_size for tar in layers))


def prepare(folder: Path, binaries: Path | None) -> Subject:
    """Builds whatever is not there yet."""
    corpus.build("python")
    layout = corpus.FOLDER
    usual = _image(folder, "usual", f"oci:{layout}:python", binaries)
    large = _image(folder, "large", _large_source(folder, layout, "python"), binaries)
    second_layers = plain_layers(layout, "python-2", folder / "layers-2")
    return Subject(folder, usual, large, f"oci:{layout}:python-2", second_layers, binaries)
