"""Ordinary images through the daemon's mirror: containerd of the distribution, log-ins, ranges, and registries that lie."""

import base64
import contextlib
import hashlib
import http.client
import json
import threading
import unittest
import urllib.request

from cases import Case
from lab import engine
from lab.mirror import Door, Mirrors, pull_at_once, request
from lab.tokens import PrivateRegistry

IMAGE = "redis"
USER, PASSWORD = "operator", "planted-secret-41c7e2"
# Copies of an image that a registry may give to all nodes together. One is what it costs; on a machine that is slow at the
# moment a first node that is only busy may be taken for slow, and its run fetched twice. Of an image as small as this one each
# is a tenth: two such runs.
COPIES = 1.25
KINDS = {"Accept": "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"}


def token(door: PrivateRegistry) -> dict:
    """What a client shows that has logged in."""
    proof = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    asked = urllib.request.Request(f"http://{door.address}/token", headers={"Authorization": f"Basic {proof}"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return {"Authorization": f"Bearer {json.load(answer)['token']}"}


class Mirror(Case):
    """Each test has a piece layer of its own, of daemons without layers."""

    def setUp(self) -> None:
        super().setUp()
        self.world.plain(IMAGE)
        self.manifest = self.world.registry.image_manifest(IMAGE, "1")
        self.layers = sorted(self.manifest["layers"], key=lambda layer: layer["size"])
        self.blobs = sum(part["size"] for part in [self.manifest["config"], *self.manifest["layers"]])

    @contextlib.contextmanager
    def mirrors(self, count: int):
        with contextlib.closing(Door(self.world.registry)) as door:
            mirrors = Mirrors(self.world.lab, door.address, count)
            try:
                yield door, mirrors
            finally:
                mirrors.stop()

    def test_containerd_of_the_distribution_on_four_nodes(self) -> None:
        with self.mirrors(4) as (door, mirrors):
            image = f"{door.address}/{IMAGE}:1"
            nodes = [self.world.lab.containerd(1, self.world.registry) for _ in mirrors.daemons]
            pull_at_once(mirrors, nodes, image)
            expected = {part["digest"] for part in [self.manifest["config"], *self.manifest["layers"]]}
            for node in nodes:
                self.assertLessEqual(expected, node.content())
            self.assertLess(door.blob_bytes, COPIES * self.blobs, "the registry gave more than its share")
            counters = [daemon.status()["counters"] for daemon in mirrors.daemons]
            from_peers = sum(int(found["p2p_bytes_from_peers"]) for found in counters)
            self.assertGreater(from_peers, (4 - COPIES) * self.blobs)
            for node in nodes:
                node.remove_everything()
                node.stop()

    @unittest.skipUnless(engine.installed(), "no dockerd")
    def test_dockerd_of_the_distribution(self) -> None:
        """The registry stands in for the hub: Docker mirrors nothing else."""
        self.world.registry.push(self.world.layout, IMAGE, f"library/{IMAGE}", "1")
        with self.mirrors(2) as (door, mirrors):
            folder = self.world.lab.directory("docker")
            engines = []
            try:
                for number, daemon in enumerate(mirrors.daemons):
                    engines.append(engine.Engine(folder / f"{mirrors.port}-{number}", daemon.mirror))
                    self.world.lab.parts.append(engines[-1])
                    engines[-1].start()
                ids = [one.pull(IMAGE, "1") for one in engines]
            finally:
                for one in engines:
                    one.stop()
            self.assertEqual(set(ids), {self.manifest["config"]["digest"]})
            self.assertGreater(door.blob_bytes, 0.95 * self.blobs)
            self.assertLess(door.blob_bytes, COPIES * self.blobs, "the registry gave more than its share")

    def test_ranges_and_words_of_the_protocol(self) -> None:
        with self.mirrors(2) as (door, mirrors):
            large, digest = self.layers[-1], self.layers[-1]["digest"]
            whole = self.world.registry.blob(IMAGE, digest)
            first, second = mirrors.daemons
            path = f"/v2/{IMAGE}/blobs/{digest}"
            for daemon in (first, second):
                status, headers, body = request(daemon, "GET", path, {"Range": "bytes=5000000-6999999"})
                self.assertEqual((status, headers["content-range"]), (206, f"bytes 5000000-6999999/{large['size']}"))
                self.assertEqual(body, whole[5000000:7000000])
                self.assertEqual(request(daemon, "GET", path, {"Range": "bytes=-10"})[2], whole[-10:])
                self.assertEqual(request(daemon, "GET", path)[2], whole)
                status, headers, body = request(daemon, "HEAD", path)
                self.assertEqual((status, headers["content-length"], headers["docker-content-digest"], body),
                                 (200, str(large["size"]), digest, b""))
                self.assertEqual(request(daemon, "GET", path, {"Range": f"bytes={large['size']}-"})[0], 416)
                self.tags_and_errors(daemon)
            self.assertLess(door.blob_bytes, COPIES * large["size"])
            # What was proven is there without the registry; what nobody has is unavailable, not missing.
            door.close()
            self.assertEqual(request(second, "GET", path, {"Range": "bytes=1-9"})[2], whole[1:10])
            self.assertEqual(request(second, "GET", f"/v2/{IMAGE}/blobs/{self.layers[0]['digest']}")[0], 503)

    def tags_and_errors(self, daemon) -> None:
        status, headers, body = request(daemon, "GET", f"/v2/{IMAGE}/manifests/1", KINDS)
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        self.assertEqual((status, headers["docker-content-digest"]), (200, digest))
        by_digest = request(daemon, "GET", f"/v2/{IMAGE}/manifests/{digest}", KINDS)
        self.assertEqual((by_digest[0], by_digest[1]["content-type"], by_digest[2]), (200, headers["content-type"], body))
        self.assertEqual(json.loads(request(daemon, "GET", f"/v2/{IMAGE}/tags/list")[2])["tags"], ["1"])
        self.assertEqual(request(daemon, "GET", "/v2/")[0], 200)
        for path in (f"/v2/{IMAGE}/manifests/none", f"/v2/{IMAGE}/blobs/sha256:{'0' * 64}", f"/v2/{IMAGE}/blobs/x", "/v1/"):
            self.assertEqual(request(daemon, "GET", path)[0], 404, path)
        self.assertEqual(request(daemon, "POST", f"/v2/{IMAGE}/blobs/uploads/")[0], 405)
        self.assertEqual(request(daemon, "GET", "/v2/", {"Host": "evil.example"})[0], 403)

    def test_who_may_not_read_gets_no_bytes(self) -> None:
        with contextlib.closing(PrivateRegistry(self.world.registry, USER, PASSWORD)) as door:
            mirrors = Mirrors(self.world.lab, door.address, 2)
            try:
                self.private(door, *mirrors.daemons)
            finally:
                mirrors.stop()

    def test_a_node_that_may_not_read_stops_nobody(self) -> None:
        """It is the first of every fourth run's tree, and has no log-in."""
        with contextlib.closing(Door(self.world.registry)) as counted, \
                contextlib.closing(PrivateRegistry(counted, USER, PASSWORD)) as door:
            # As long as a slow machine needs.
            door.life = 600
            mirrors = Mirrors(self.world.lab, door.address, 4)
            try:
                *able, unable = mirrors.daemons
                bodies = {}

                def pull(daemon) -> None:
                    shown = token(door)
                    for part in self.layers:
                        path = f"/v2/{IMAGE}/blobs/{part['digest']}"
                        bodies[daemon.mirror, part["digest"]] = request(daemon, "GET", path, shown)[2]

                threads = [threading.Thread(target=pull, args=(daemon,)) for daemon in able]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                for (_, digest), body in bodies.items():
                    self.assertEqual(f"sha256:{hashlib.sha256(body).hexdigest()}", digest)
                self.assertEqual(len(bodies), len(able) * len(self.layers))
                self.assertLess(counted.blob_bytes, COPIES * self.blobs, "the registry gave more than its share")
                path = f"/v2/{IMAGE}/blobs/{self.layers[-1]['digest']}"
                self.assertEqual(request(unable, "GET", path)[0], 401)
                self.assertEqual(request(unable, "GET", path, token(door))[2], bodies[able[0].mirror, self.layers[-1]["digest"]])
            finally:
                mirrors.stop()

    def private(self, door: PrivateRegistry, first, second) -> None:
        digest = self.layers[-1]["digest"]
        path, whole = f"/v2/{IMAGE}/blobs/{digest}", self.world.registry.blob(IMAGE, digest)
        manifest = f"/v2/{IMAGE}/manifests/1"
        for target in (path, manifest):
            status, headers, _ = request(first, "GET", target)
            self.assertEqual(status, 401)
            self.assertIn(f"http://{door.address}/token", headers["www-authenticate"])
        self.assertEqual(request(first, "GET", path, token(door))[2], whole)
        self.assertEqual(request(first, "GET", manifest, {**token(door), **KINDS})[0], 200)
        # In the caches of both from now on; that is nobody's right to it.
        self.assertEqual(request(second, "GET", path, token(door))[2], whole)
        for daemon in (first, second):
            for headers in ({}, {"Authorization": "Bearer invented"}, {"Range": "bytes=0-9"}):
                status, _, body = request(daemon, "GET", path, headers)
                self.assertEqual(status, 401)
                self.assertNotIn(whole[:64], body)
            self.assertEqual(request(daemon, "HEAD", path)[0], 401)

    def test_a_registry_that_lies_or_breaks_off(self) -> None:
        with self.mirrors(2) as (door, mirrors):
            small, other, large = (self.layers[at]["digest"] for at in (0, -2, -1))
            first, second = mirrors.daemons
            # Half a body, three times: what comes is put together.
            breaks = iter(range(3))
            door.spoil = lambda body: body if next(breaks, None) is None else body[:len(body) // 2]
            self.assertEqual(request(second, "GET", f"/v2/{IMAGE}/blobs/{large}")[2], self.world.registry.blob(IMAGE, large))
            self.assertIsNone(next(breaks, None))
            door.spoil = lambda body: bytes([body[0] ^ 1]) + body[1:]
            for digest in (small, other):
                self.never_whole(first, digest)
            door.spoil = None
            for digest in (small, other):
                for daemon in (first, second):
                    self.right_in_the_end(daemon, digest)

    def right_in_the_end(self, daemon, digest: str) -> None:
        """What passed through another node may still be wrong there; that is found out, and asking again helps."""
        path = f"/v2/{IMAGE}/blobs/{digest}"
        with contextlib.suppress(http.client.IncompleteRead, ConnectionError):
            request(daemon, "GET", path)
        status, _, body = request(daemon, "GET", path)
        self.assertEqual((status, f"sha256:{hashlib.sha256(body).hexdigest()}"), (200, digest))

    def never_whole(self, daemon, digest: str) -> None:
        try:
            status, _, _ = request(daemon, "GET", f"/v2/{IMAGE}/blobs/{digest}")
            self.assertIn(status, (502, 503))
        except (http.client.IncompleteRead, ConnectionError):
            pass
