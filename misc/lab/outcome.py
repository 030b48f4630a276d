"""What a rollout on a cluster showed."""

import statistics
from dataclasses import dataclass, field

COUNTERS = ("p2p_asked", "p2p_asked_registry", "p2p_hedged", "p2p_hedged_registry", "p2p_passed_over", "p2p_redirected",
            "p2p_refused", "p2p_wrong_pieces")


@dataclass
class Outcome:
    """Times in seconds, of the nodes that lived, those with a slow link first."""

    nodes: int
    # Bytes of one copy of what was rolled out, and what left the registry's interface, headers included.
    stored: int
    registry_bytes: int
    whole: list[float]
    uploads: list[int]
    errors: list[str]
    # Empty where nothing can be read before all is here.
    startup: list[float] = field(default_factory=list)
    counters: list[dict] = field(default_factory=list)
    slow: int = 0

    @property
    def copies(self) -> float:
        return self.registry_bytes / self.stored

    @property
    def upload_ratio(self) -> float:
        """Most over mean; 0 if nobody uploaded."""
        mean = statistics.mean(self.uploads)
        return max(self.uploads) / mean if mean else 0.0

    @property
    def others(self) -> float:
        """When the last of those whose link is not slow had everything."""
        return max(self.whole[self.slow:])

    def total(self, counter: str) -> int:
        return sum(int(counters.get(counter, 0)) for counters in self.counters)


def tell(name: str, outcome: Outcome, alone: float | None) -> None:
    """One run, as a few lines. `alone`: seconds of one node alone, if known."""
    print(f"{name}: {outcome.nodes} nodes, registry sent {outcome.registry_bytes / 1e6:.0f} MB = {outcome.copies:.3f} copies (headers included)")
    startup = f"start-up set: {spread(outcome.startup)}; " if outcome.startup else ""
    ratio = f", {max(outcome.whole) / alone:.2f} of one node alone" if alone else ""
    print(f"  {startup}everything: {spread(outcome.whole)}{ratio}")
    print(f"  upload of nodes: max/mean {outcome.upload_ratio:.2f}; failed: {'; '.join(outcome.errors) or 'none'}")
    if outcome.counters:
        print(f"  { {counter[4:]: outcome.total(counter) for counter in COUNTERS} }")
    if outcome.slow:
        slow = [f"{took:.1f} s" for took in outcome.whole[:outcome.slow]]
        for number, counters in enumerate(outcome.counters[:outcome.slow]):
            slow[number] += f", {counters.get('p2p_asked_registry')} requests to the registry of {counters.get('p2p_asked', 0)} to peers"
        print(f"  slow nodes: {'; '.join(slow)}; the others: last {outcome.others:.1f} s")
    print(end="", flush=True)


def spread(times: list[float]) -> str:
    return f"median {statistics.median(times):.1f} s, last {max(times):.1f} s"
