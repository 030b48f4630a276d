"""A rival of the piece layer: the same bytes by a BitTorrent swarm (libtorrent), on the same limited links.

Kraken is a BitTorrent of its own. Here everybody is told of everybody at the start, so that there is no tracker to wait for;
the seeder stands where the registry does and sends each piece once until all are out (super seeding). All wait for the whole
file: nobody can read before.
"""

import hashlib
import json
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from .netns import REGISTRY, Network, address
from .outcome import Outcome
from .process import Process, wait_until

PORT = 6881
PIECE = 1 << 20

# One machine's part; its words: torrent, folder, own address, "seed" or "get", file to report to, addresses of all others.
PEER = """
import json, os, sys, time
import libtorrent as lt
torrent, folder, own, role, report, *others = sys.argv[1:]
session = lt.session({
    "listen_interfaces": f"{own}:PORT", "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
    "enable_outgoing_utp": False, "enable_incoming_utp": False, "in_enc_policy": 2, "out_enc_policy": 2,
    "allow_multiple_connections_per_ip": False, "connections_limit": 200, "min_reconnect_time": 2,
})
params = lt.add_torrent_params()
params.ti, params.save_path = lt.torrent_info(torrent), folder
params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
if role == "seed":
    params.flags |= lt.torrent_flags.seed_mode | lt.torrent_flags.super_seeding
handle = session.add_torrent(params)
for other in others:
    handle.connect_peer((other, PORT))
while True:
    status = handle.status()
    with open(report + ".new", "w") as file:
        json.dump({"bytes": status.total_wanted_done, "whole": status.is_seeding, "peers": status.num_peers}, file)
    os.rename(report + ".new", report)
    time.sleep(0.1)
""".replace("PORT", str(PORT))


def torrent_of(file: Path, target: Path) -> None:
    """Writes the torrent of one file."""
    import libtorrent as lt

    files = lt.file_storage()
    lt.add_files(files, str(file))
    torrent = lt.create_torrent(files, PIECE)
    lt.set_piece_hashes(torrent, str(file.parent))
    target.write_bytes(lt.bencode(torrent.generate()))


@dataclass
class Peer:
    """A machine of the swarm; machine 0 seeds."""

    number: int
    folder: Path
    process: Process
    took_s: float = 0.0
    killed: bool = False
    error: str = ""
    report: Path = field(init=False)

    def __post_init__(self) -> None:
        self.report = self.folder / "report"

    def state(self) -> dict:
        try:
            return json.loads(self.report.read_text())
        except FileNotFoundError:
            return {"bytes": 0, "whole": False, "peers": 0}


class Swarm:
    """A seeder and N peers, each in its namespace."""

    def __init__(self, folder: Path, network: Network, file: Path, nodes: int):
        folder.mkdir(parents=True)
        self.network, self.file, self.torrent = network, file, folder / "torrent"
        torrent_of(file, self.torrent)
        self.digest = hashlib.sha256(file.read_bytes()).hexdigest()
        self.peers = [self._peer(folder / str(number), number, nodes) for number in range(nodes + 1)]

    def _peer(self, folder: Path, number: int, nodes: int) -> Peer:
        folder.mkdir()
        addresses = [REGISTRY, *(address(other) for other in range(1, nodes + 1))]
        own = addresses.pop(number)
        place = folder if number else self.file.parent
        words = [sys.executable, "-c", PEER, self.torrent, place, own, "get" if number else "seed", folder / "report", *addresses]
        return Peer(number, folder, Process("bittorrent", self.network.inside(number, words), folder / "log"))

    def _wait(self, peer: Peer, begun: float) -> None:
        while not peer.killed and not (whole := peer.state()["whole"]) and peer.process.alive():
            time.sleep(0.1)
        peer.took_s = time.monotonic() - begun
        if not peer.killed and (not whole or hashlib.sha256((peer.folder / self.file.name).read_bytes()).hexdigest() != self.digest):
            peer.error = f"node {peer.number}: wrong bytes or none"

    def rollout(self, kill: int, slow: int) -> Outcome:
        """All get the file at once; the seeder counts as the registry."""
        sent = [self.network.sent(peer.number) for peer in self.peers]
        for peer in self.peers[1:slow + 1]:
            self.network.limit(peer.number, max(1, self.network.mbit // 10))
        begun, nodes = time.monotonic(), self.peers[1:]
        for peer in self.peers:
            peer.process.start()
        threads = [threading.Thread(target=self._wait, args=(peer, begun)) for peer in nodes]
        for thread in threads:
            thread.start()
        if victims := nodes[len(nodes) - kill:] if kill else []:
            half = self.file.stat().st_size // 2
            wait_until(lambda: all(victim.state()["bytes"] >= half for victim in victims), "half of the file", 1800, 0.1)
            for victim in victims:
                victim.killed = True
                victim.process.kill()
        for thread in threads:
            thread.join()
        living = [peer for peer in nodes if not peer.killed]
        sent = [self.network.sent(peer.number) - before for peer, before in zip(self.peers, sent)]
        return Outcome(
            len(nodes), self.file.stat().st_size, sent[0], [peer.took_s for peer in living], [sent[peer.number] for peer in living],
            [peer.error for peer in living if peer.error], slow=slow)

    def stop(self) -> None:
        for peer in self.peers:
            peer.process.stop()
