"""A private registry: a door before a `docker-registry` that opens for tokens, and the server that gives them to who knows
the password. Tokens live ten seconds, or until `revoke`."""

import base64
import http.client
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler

from .registry import Registry
from .web import Handler, Server

LIFE_S = 10
HOP = {"connection", "host", "transfer-encoding", "content-length", "authorization", "location"}


class PrivateRegistry(Server):
    """Serves on a port of its own; `refused` and `issued` count what it did."""

    def __init__(self, registry: Registry, username: str, password: str):
        self.registry = registry
        self.proof = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
        self.tokens: dict[str, float] = {}
        self.life = LIFE_S
        self.issued = self.refused = 0
        self.lock = threading.Lock()
        door = self

        class Answers(Handler):
            def do_GET(self):
                door.answer(self)

            do_HEAD = do_GET

            def do_POST(self):
                # No OAuth 2 here: clients ask by GET then, as the token specification says.
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                door.send(self, 405, {}, b"")

        super().__init__(Answers)

    def revoke(self) -> None:
        """Ends all tokens at once."""
        with self.lock:
            self.tokens.clear()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        shown = request.headers.get("Authorization", "")
        if request.path.startswith("/token"):
            return self.give(request, shown)
        with self.lock:
            open_ = self.tokens.get(shown.removeprefix("Bearer "), 0) > time.monotonic()
            self.refused += not open_
        if open_:
            return self.forward(request)
        challenge = f'Bearer realm="http://{self.address}/token",service="lab"'
        return self.send(request, 401, {"WWW-Authenticate": challenge}, b'{"errors":[{"code":"UNAUTHORIZED"}]}')

    def give(self, request: BaseHTTPRequestHandler, shown: str) -> None:
        if shown != self.proof:
            return self.send(request, 401, {}, b'{"errors":[{"code":"UNAUTHORIZED"}]}')
        token = secrets.token_urlsafe(24)
        with self.lock:
            self.tokens[token] = time.monotonic() + self.life
            self.issued += 1
        return self.send(request, 200, {}, json.dumps({"token": token, "expires_in": self.life}).encode())

    def forward(self, request: BaseHTTPRequestHandler) -> None:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
        connection = http.client.HTTPConnection(self.registry.address, timeout=60)
        try:
            connection.request(request.command, request.path, headers=headers)
            answer = connection.getresponse()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in HOP}
            length = answer.getheader("Content-Length")
            self.send(request, answer.status, kept, answer.read(), length)
        finally:
            connection.close()

    @staticmethod
    def send(request: BaseHTTPRequestHandler, status: int, headers: dict, body: bytes, length: str | None = None) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", length if request.command == "HEAD" and length else str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
