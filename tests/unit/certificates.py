"""A hospital's certification authority for tests, by the openssl program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import require_tool


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Makes certificates that descend from :attr:`ca`."""

    def __init__(self, folder: Path, name: str = "hospital") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._name = name
        self.ca, self._key = folder / f"{name}-ca.crt", folder / f"{name}-ca.key"
        self._openssl(
            "req", "-x509", *self._new_key("ec", self._key), "-out", self.ca, "-days", "30", "-subj", f"/CN={name} CA",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip

    def issue(
        self, name: str, *, host: str = "IP:127.0.0.1", days: int = 30, kind: str = "ec", **dates: str
    ) -> Identity:
        """A certificate for both sides of a connection. ``dates``: not_before and not_after as YYYYMMDDHHMMSSZ."""
        made = Identity(self._folder / f"{self._name}-{name}.crt", self._folder / f"{self._name}-{name}.key")
        request, extensions = self._folder / "request.csr", self._folder / "extensions"
        self._openssl("req", *self._new_key(kind, made.key), "-out", request, "-subj", f"/CN={name}")
        extensions.write_text(
            f"subjectAltName={host}\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\n"
        )
        if dates:
            self._backdated(request, extensions, made.certificate, **dates)
        else:
            self._openssl(
                "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._key, "-CAcreateserial",
                "-days", days, "-extfile", extensions, "-out", made.certificate,
            )  # fmt: skip
        made.key.chmod(0o600)
        return made

    def revoke(self, revoked: Identity) -> str:
        """A revocation list in PEM that names this certificate."""
        settings = self._database()
        self._openssl("ca", "-config", settings, "-revoke", revoked.certificate)
        return self._openssl("ca", "-config", settings, "-gencrl", "-crldays", "30")

    def _backdated(self, request: Path, extensions: Path, output: Path, *, not_before: str, not_after: str) -> None:
        self._openssl(
            "ca", "-batch", "-config", self._database(), "-in", request, "-out", output, "-extfile", extensions,
            "-startdate", not_before, "-enddate", not_after, "-notext",
        )  # fmt: skip

    def _database(self) -> Path:
        """Configuration of ``openssl ca``, the one that can date back and revoke."""
        settings, index, serial = (self._folder / name for name in ("ca.cnf", "index.txt", "serial"))
        index.touch()
        if not serial.exists():
            serial.write_text("2000\n")
        settings.write_text(
            f"[ca]\ndefault_ca=d\n[d]\ndatabase={index}\nserial={serial}\nnew_certs_dir={self._folder}\n"
            f"certificate={self.ca}\nprivate_key={self._key}\ndefault_md=sha256\npolicy=p\nunique_subject=no\n"
            "[p]\ncommonName=supplied\n"
        )
        return settings

    @staticmethod
    def _new_key(kind: str, output: Path) -> tuple[str | Path, ...]:
        kinds = {
            "rsa": ("-newkey", "rsa:2048"),
            "short": ("-newkey", "rsa:1024"),
            "ec": ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        }
        return (*kinds[kind], "-nodes", "-keyout", output)

    def _openssl(self, *arguments: object) -> str:
        tool = require_tool("openssl", "openssl")
        done = subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout
