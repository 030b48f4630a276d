"""A collector of traces: OTLP over HTTP with protobuf, decoded by OpenTelemetry's own definitions."""

import threading
from dataclasses import dataclass

from .web import Handler, Server


def installed() -> bool:
    try:
        import opentelemetry.proto.collector.trace.v1.trace_service_pb2  # noqa: F401
    except ImportError:
        return False
    return True


@dataclass(frozen=True)
class Span:
    name: str
    trace: str
    id: str
    parent: str
    attributes: dict
    resource: dict
    took_ns: int


def plain(attributes) -> dict:
    value = lambda any_value: getattr(any_value, any_value.WhichOneof("value"))
    return {attribute.key: value(attribute.value) for attribute in attributes}


class Collector(Server):
    """Serves on a port of its own; with `silent` it takes connections and says nothing."""

    def __init__(self, silent: bool = False):
        self.spans: list[Span] = []
        # All that came, headers included, for searches.
        self.raw = b""
        self.requests = 0
        self.end = threading.Event()
        collector = self

        class Answers(Handler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if silent:
                    collector.requests += 1
                    collector.end.wait()
                    return
                collector.take(self.path, str(self.headers).encode(), body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

        super().__init__(Answers)
        self.endpoint = f"http://{self.address}"

    def close(self) -> None:
        self.end.set()
        super().close()

    def take(self, path: str, headers: bytes, body: bytes) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
        assert path == "/v1/traces", path
        request = ExportTraceServiceRequest.FromString(body)
        spans = [
            Span(span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), plain(span.attributes),
                 plain(group.resource.attributes), span.end_time_unix_nano - span.start_time_unix_nano)
            for group in request.resource_spans for scope in group.scope_spans for span in scope.spans
        ]
        self.requests += 1
        self.raw += headers + body
        self.spans += spans

    def named(self, name: str) -> list[Span]:
        return [span for span in list(self.spans) if span.name == name]
