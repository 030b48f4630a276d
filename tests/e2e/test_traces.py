"""Traces as a collector gets them over OTLP: a pull with its mounts and fetches is one; a collector that is gone harms nobody."""

import re
import unittest
from pathlib import Path

from cases import Case
from lab import collector
from lab.collector import Collector
from lab.containers import CTR, running
from lab.process import wait_until
from test_faults import drop_caches
from world import Node

NAME = "redis"
# So that nobody waits for the SDK's five seconds.
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "200"}


def restart(node: Node, env: dict) -> None:
    node.daemon.stop()
    node.daemon.process.env.update(env)
    node.daemon.start()


@unittest.skipUnless(collector.installed(), "no opentelemetry-proto")
class Traces(Case):
    def traced(self, silent: bool = False) -> Collector:
        made = Collector(silent)
        self.addCleanup(made.close)
        return made

    def use(self, node: Node) -> None:
        image = self.world.lazy(NAME)
        node.containerd.pull(image, "lacewing")
        with running(node.containerd, CTR, image, "lacewing") as container:
            drop_caches()
            Path(f"/proc/{container.pid}/root/usr/bin/perl").read_bytes()

    def test_a_pull_its_mounts_and_its_fetches_are_one_trace(self):
        told = self.traced()
        node = self.world.new_node(2, background=False)
        restart(node, {**SOON, "OTEL_EXPORTER_OTLP_ENDPOINT": told.endpoint, "OTEL_RESOURCE_ATTRIBUTES": "k8s.node.name=n1"})
        self.use(node)
        wait_until(lambda: told.named("pull"), "the end of the pull", 60)
        (pull,) = told.named("pull")
        layers = len(node.daemon.status()["layers"])
        self.assertEqual(pull.attributes["container.image.name"], self.world.lazy(NAME))
        self.assertEqual(pull.attributes["lacewing.image.lazy_layers"], layers)
        self.assertEqual(pull.parent, "")
        wait_until(lambda: any(fetch.attributes["lacewing.blocking"] for fetch in told.named("fetch")), "a reader's fetch")
        self.assertEqual({span.trace for span in told.spans}, {pull.trace}, told.spans)
        self.assertEqual(len(told.named("layer")), layers)
        self.assertEqual({span.parent for name in ("layer", "mount", "fetch") for span in told.named(name)}, {pull.id})
        of_a_layer = {span.id for span in told.named("layer")}
        self.assertEqual(len(told.named("index")), layers)
        self.assertLessEqual({span.parent for span in told.named("index")}, of_a_layer)
        self.assertEqual({span.attributes["lacewing.layer.number"] for span in told.named("mount")},
                         {layer["number"] for layer in node.daemon.status()["layers"]})
        self.assertEqual({span.attributes["lacewing.outcome"] for span in told.named("fetch")}, {"ok"})
        self.assertEqual(pull.resource["service.name"], "lacewing")
        self.assertEqual(pull.resource["k8s.node.name"], "n1")

    def test_by_configuration_and_at_the_end(self):
        """The file's endpoint wins over the environment's; what waits when the worker ends is sent."""
        told, other = self.traced(), self.traced()
        node = self.world.new_node(2, background=False, extra=f'[traces]\nendpoint = "{told.endpoint}"\n')
        restart(node, {"OTEL_EXPORTER_OTLP_ENDPOINT": other.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "600000"})
        self.use(node)
        self.assertEqual(told.spans, [])
        node.daemon.stop()
        self.assertEqual(len(told.named("pull")), 1)
        self.assertTrue(told.named("fetch"))
        self.assertEqual(other.requests, 0)

    def test_a_collector_that_is_silent_or_gone(self):
        silent = self.traced(silent=True)
        gone = Collector()
        gone.close()
        for endpoint in (silent.endpoint, gone.endpoint):
            with self.subTest(endpoint):
                node = self.world.new_node(2, background=False)
                restart(node, {**SOON, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_MAX_QUEUE_SIZE": "4",
                               "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2"})
                self.use(node)
                status = node.daemon.status()
                self.assertTrue(all(layer["lazy"] for layer in status["layers"]))
                self.assertEqual(status["counters"]["read_errors"], 0)
                # The collector still does not answer when the worker ends.
                node.daemon.stop()
        self.assertGreater(silent.requests, 0)
        log = node.daemon.process.log.read_text()
        self.assertEqual(len(re.findall("traces are lost", log)), 1, log[-2000:])

    def test_off_unless_asked_for(self):
        node = self.world.new_node(2, background=False)
        self.assertNotIn("OTLP", node.daemon.process.log.read_text())
        restart(node, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
        self.assertIn("no traces are sent: OTLP is spoken as http/protobuf here, not as grpc",
                      node.daemon.process.log.read_text())
        self.use(node)
