"""Realistic images, built from distribution packages, PyPI and npm, and what each must do to count as ready."""

import functools
import json
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from . import rootfs
from .oci import GZIP, ZSTD, Layer, Layout
from .paths import CACHE
from .process import run
from .rawtar import DIRECTORY, SYMLINK, TarWriter

DOWNLOADS = CACHE / "downloads"
SITE_PACKAGES = "/usr/local/lib/python3.11/dist-packages"


@dataclass(frozen=True)
class Image:
    """An image of the corpus. `ready` exits with 0, as root and as an ordinary user."""

    name: str
    ready: list[str]
    note: str
    refused: str = ""  # why containerd's own unpack refuses it: convert must, too


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


_blobs: dict[tuple[str, str], Layer] = {}
_blob_locks: dict[tuple[str, str], threading.Lock] = {}
_blobs_lock = threading.Lock()


def blob(layout: Layout, made: rootfs.Rootfs, compression: str = GZIP) -> Layer:
    """A built layer as a blob, written once."""
    at = (made.key, compression)
    with _blobs_lock:
        lock = _blob_locks.setdefault(at, threading.Lock())
    with lock:
        if at not in _blobs:
            _blobs[at] = rootfs.layer(layout, made, compression)
        return _blobs[at]


def marker(layout: Layout, word: str) -> Layer:
    """A bottom layer that makes the chain ids of all layers above it differ from those of other images."""
    return layout.layer(lambda tar: tar.add("image-marker", data=word.encode()))


def wheels(tag: str, *requirements: str) -> Path:
    """Wheels from PyPI, for the images' Python whatever this machine's is."""
    target = DOWNLOADS / f"wheels-{tag}"
    if not (target / "done").exists():
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        run("python3", "-m", "pip", "install", "-q", "--root-user-action=ignore", "--no-compile",
            "--only-binary=:all:", "--python-version=3.11", "--platform=manylinux2014_x86_64",
            "--platform=manylinux_2_17_x86_64", "--target", target / "packages", *requirements)
        (target / "done").touch()
    return target / "packages"


def python(layout: Layout) -> list[Image]:
    """An interpreter with large native wheels; a second version in which little changed; the first with zstd layers."""
    system = rootfs.built("python-system", rootfs.base(), rootfs.install("python3", "ca-certificates", "iputils-ping"))

    def version(number: int, *requirements: str) -> list[rootfs.Rootfs]:
        packages = rootfs.built(f"python-packages-{number}", system, f"""
            mkdir -p {SITE_PACKAGES} && cp -r /run/host/. {SITE_PACKAGES}  # {' '.join(requirements)}
            python3 -m compileall -q --invalidation-mode unchecked-hash {SITE_PACKAGES} || true
        """, wheels(str(number), *requirements))
        app = rootfs.built(f"python-app-{number}", packages, f"""
            mkdir -p /srv/app
            cat >/srv/app/main.py <<'END'
import numpy, pandas, scipy.stats
print("ready", {number}, pandas.DataFrame({{"a": numpy.arange(10)}}).sum().a, scipy.stats.norm.cdf(0))
END
            useradd -u 1000 -M app
            chown -R 1000:1000 /srv/app
            rm -rf /usr/share/perl5 /usr/share/zoneinfo/Antarctica
        """)
        return [rootfs.base(), system, packages, app]

    ready = ["python3", "/srv/app/main.py"]
    first = version(1, "numpy==1.26.4", "scipy==1.13.1", "pandas==2.2.2")
    second = version(2, "numpy==1.26.4", "scipy==1.13.1", "pandas==2.2.3")
    config = {"WorkingDir": "/srv/app", "Cmd": ready}
    layout.image("python", [blob(layout, part) for part in first], config)
    layout.image("python-2", [blob(layout, part) for part in second], config)
    layout.image("python-zstd", [marker(layout, "zstd"), *(blob(layout, part, ZSTD) for part in first)], config)
    member = layout.image("python-amd64", [marker(layout, "multi"), *(blob(layout, part) for part in first)], config)
    other = layout.image("python-arm64", [marker(layout, "arm64")], config, architecture="arm64")
    layout.image_index("python-multi", [(member, "amd64"), (other, "arm64")])
    return [
        Image("python", ready, "numpy, scipy, pandas; whiteouts over packages' files"),
        Image("python-2", ready, "the same with another pandas: for dedup"),
        Image("python-zstd", ready, "python with zstd layers"),
        Image("python-multi", ready, "image index of amd64 and arm64"),
    ]


NODE_PACKAGES = {
    "express": "4.19.2", "lodash": "4.17.21", "typescript": "5.4.5", "webpack": "5.91.0", "@babel/core": "7.24.6",
    "@babel/preset-env": "7.24.6", "axios": "1.7.2", "date-fns": "3.6.0", "rxjs": "7.8.1",
}


def node_modules() -> Path:
    target = DOWNLOADS / "node"
    if not (target / "done").exists():
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        package = {"name": "app", "version": "1.0.0", "private": True, "dependencies": NODE_PACKAGES}
        (target / "package.json").write_text(json.dumps(package))
        run("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", cwd=target)
        (target / "done").touch()
    return target


def node(layout: Layout) -> list[Image]:
    """A node_modules tree: many small files in deep directories."""
    system = rootfs.built("node-system", rootfs.base(), rootfs.install("nodejs", "ca-certificates"))
    modules = rootfs.built("node-modules", system, f"""
        mkdir -p /srv/app  # {json.dumps(NODE_PACKAGES)}
        cp -r /run/host/node_modules /run/host/package.json /srv/app/
        chown -R 1000:1000 /srv/app
    """, node_modules())
    app = rootfs.built("node-app", modules, """
        cat >/srv/app/index.js <<'END'
const express = require("express"), _ = require("lodash"), ts = require("typescript");
require("axios"); require("@babel/core"); require("rxjs");
console.log("ready", _.sum([1, 2, 3]), ts.version, typeof express());
END
        useradd -u 1000 -M node
        rm -rf /srv/app/node_modules/date-fns/locale /srv/app/node_modules/rxjs/src
    """)
    ready = ["node", "/srv/app/index.js"]
    parts = [rootfs.base(), system, modules, app]
    layout.image("node", [blob(layout, part) for part in parts], {"WorkingDir": "/srv/app", "Cmd": ready})
    return [Image("node", ready, "Node.js with a large node_modules")]


def redis(layout: Layout) -> list[Image]:
    """A database."""
    system = rootfs.built("redis-system", rootfs.base(), rootfs.install("redis-server"))
    config = rootfs.built("redis-config", system, "sed -i 's/^save /#save /' /etc/redis/redis.conf\n")
    ready = shell("""
        redis-server --port 0 --unixsocket /tmp/redis.sock --save '' --dir /tmp --daemonize yes >/dev/null
        for try in $(seq 100); do
          redis-cli -s /tmp/redis.sock set key value 2>/dev/null | grep -q OK && echo ready && exit 0
          sleep 0.05
        done
        exit 1
    """)
    layout.image("redis", [blob(layout, part) for part in (rootfs.base(), system, config)], {"Cmd": ready})
    return [Image("redis", ready, "Redis")]


def java(layout: Layout) -> list[Image]:
    """A JVM: one large file read here and there, archives that are mapped."""
    system = rootfs.built("java-system", rootfs.base(), "mkdir -p /usr/share/man/man1\n" + rootfs.install("openjdk-17-jre-headless", "ant"))
    app = rootfs.built("java-app", system, """
        mkdir -p /srv/app
        cat >/srv/app/build.xml <<'END'
<project default="main"><target name="main"><checksum file="/etc/debian_version" property="sum"/><echo>ready ${sum} ${ant.java.version}</echo></target></project>
END
    """)
    ready = ["ant", "-q", "-f", "/srv/app/build.xml"]
    layout.image("java", [blob(layout, part) for part in (rootfs.base(), system, app)], {"Cmd": ready})
    return [Image("java", ready, "OpenJDK 17 and a program of many jars")]


def nginx(layout: Layout) -> list[Image]:
    """A web server."""
    system = rootfs.built("nginx-system", rootfs.base(), rootfs.install("nginx-light", "curl", "ca-certificates"))
    site = rootfs.built("nginx-site", system, """
        cat >/etc/nginx/lab.conf <<'END'
pid /tmp/nginx.pid;
error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  server { listen unix:/tmp/nginx.sock; root /srv/www; }
}
END
        mkdir -p /srv/www
        echo 'ready and served' >/srv/www/index.html
        rm -rf /var/www/html /usr/share/perl5
    """)
    ready = shell("nginx -c /etc/nginx/lab.conf && curl -s --unix-socket /tmp/nginx.sock http://nginx/ | grep ready")
    layout.image("nginx", [blob(layout, part) for part in (rootfs.base(), system, site)], {"Cmd": ready})
    return [Image("nginx", ready, "nginx")]


BUSYBOX_NAMES = "sh ls cat find stat sleep echo true id md5sum sha256sum wc touch rm mkdir grep sed dd head tail ps kill sort xargs"


def write_busybox(tar: TarWriter) -> None:
    """A root directory that can run a shell."""
    for name in ("bin", "etc", "dev", "proc", "sys", "root", "run"):
        tar.add(f"{name}/", DIRECTORY)
    tar.add("tmp/", DIRECTORY, mode=0o1777)
    program = Path("/bin/busybox")
    with program.open("rb") as file:
        tar.add("bin/busybox", file=file, size=program.stat().st_size, mode=0o755)
    for name in BUSYBOX_NAMES.split():
        tar.add(f"bin/{name}", SYMLINK, link="busybox")
    tar.add("etc/passwd", data=b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n")
    tar.add("etc/group", data=b"root:x:0:\napp:x:1000:\n")


@functools.cache
def pause_program() -> bytes:
    """What a pod's first container runs: it waits."""
    source = DOWNLOADS / "pause.c"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text("#include <unistd.h>\n#include <signal.h>\n#include <stdlib.h>\n"
                      "static void end(int s) { _exit(0); }\n"
                      "int main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }\n")
    run("gcc", "-Os", "-static", "-s", "-Wl,--build-id=none", "-o", source.with_suffix(""), source)
    return source.with_suffix("").read_bytes()


def small(layout: Layout) -> list[Image]:
    """busybox, and the image of CRI's sandboxes."""
    layout.image("busybox", [layout.layer(write_busybox)])
    program = pause_program()
    layout.image("pause", [layout.layer(lambda tar: tar.add("pause", data=program, mode=0o755))],
                 {"Entrypoint": ["/pause"], "Cmd": None})
    return [Image("busybox", shell("echo ready"), "busybox, one layer"), Image("pause", [], "CRI's sandbox image")]
