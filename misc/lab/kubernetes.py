"""A stand-in for Kubernetes' API server: one service account and its pull secret, over TLS, for who shows the right token. No
API server is in the package registries that the lab installs from; paths, objects and refusals are those of the API's reference."""

import base64
import json
import ssl
from pathlib import Path

from .certificates import Authority
from .web import Handler, Server

TOKEN = "planted-service-token-51d0aa"
NAMESPACE, ACCOUNT, SECRET = "team", "builder", "registry-login"


class ApiServer(Server):
    """Serves on a port of its own; `asked` counts the reads of the secret."""

    def __init__(self, folder: Path, docker_config: dict):
        authority = Authority(folder, "cluster")
        self.ca, self.token = authority.certificate, folder / "token"
        self.token.write_text(f"{TOKEN}\n")
        self.asked = self.refused = 0
        data = base64.b64encode(json.dumps(docker_config).encode()).decode()
        core = f"/api/v1/namespaces/{NAMESPACE}"
        self.objects = {
            f"{core}/serviceaccounts/{ACCOUNT}": {
                "kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": ACCOUNT, "namespace": NAMESPACE},
                "imagePullSecrets": [{"name": "gone"}, {"name": SECRET}],
            },
            f"{core}/secrets/{SECRET}": {
                "kind": "Secret", "apiVersion": "v1", "metadata": {"name": SECRET, "namespace": NAMESPACE},
                "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": data},
            },
        }
        server = self

        class Answers(Handler):
            def do_GET(self):
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    server.refused += 1
                    return self.say(401, {"kind": "Status", "code": 401})
                found = server.objects.get(self.path)
                server.asked += self.path.endswith(SECRET)
                return self.say(200, found) if found else self.say(404, {"kind": "Status", "code": 404})

            def say(self, status: int, answer: dict) -> None:
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*authority.issue("apiserver", "127.0.0.1"))
        super().__init__(Answers, tls)
        self.url = f"https://{self.address}"
