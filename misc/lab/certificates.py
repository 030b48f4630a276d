"""Certificates of an authority of the lab's own, by openssl."""

from pathlib import Path

from .process import run

NEW = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


class Authority:
    """Its certificate is `certificate`."""

    def __init__(self, folder: Path, name: str = "authority"):
        self.folder, self.certificate, self.key = folder, folder / f"{name}.crt", folder / f"{name}.key"
        run(*NEW, "-days", "3650", "-subj", f"/CN={name}", "-keyout", self.key, "-out", self.certificate)

    def issue(self, name: str, address: str, days: int = 30) -> tuple[Path, Path]:
        """A certificate for an address, and its key."""
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        run(*NEW, "-days", days, "-subj", f"/CN={name}", "-addext", f"subjectAltName=IP:{address}", "-addext",
            "basicConstraints=CA:FALSE", "-CA", self.certificate, "-CAkey", self.key, "-keyout", key, "-out", certificate)
        return certificate, key
