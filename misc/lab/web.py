"""HTTP for the lab: servers on ports of their own, and clients of unix sockets."""

import http.client
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    """Answers requests; connections stay, and nothing is logged."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass


class Server:
    """Serves at `address` until `close`."""

    def __init__(self, handler: type[Handler], tls: ssl.SSLContext | None = None):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Local(http.client.HTTPConnection):
    """A connection to a server on a unix socket."""

    def __init__(self, path: Path, timeout: float = 300):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))
