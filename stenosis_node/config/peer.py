"""A peer: where results go, and who is asked for studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    Field,
    FieldSerializationInfo,
    SecretStr,
    field_serializer,
    model_validator,
)

from stenosis_node.config.values import AeTitle, Port, Seconds, Section, is_loopback


class Peer(Section):
    """A system that gets the results, or is asked for studies: an AE over DIMSE, or a DICOMweb server."""

    protocol: Literal["dimse", "dicomweb"] = "dimse"
    ae_title: AeTitle | None = None
    """Of a DIMSE peer; for a DICOMweb peer the title its DIMSE side sends from, if it routes studies to us."""
    host: str | None = None
    """Of a DIMSE peer."""
    port: Port | None = None
    """Of a DIMSE peer."""
    url: str | None = None
    """Of a DICOMweb peer: the service root, e.g. ``https://pacs.example/dicom-web``."""
    username: str | None = None
    """HTTP Basic authentication of a DICOMweb peer."""
    password: SecretStr | None = None
    """Best given as ``STENOSIS_NODE__PEERS__NAME__PASSWORD``, not in the file."""
    token: SecretStr | None = None
    """Bearer token of a DICOMweb peer, instead of user name and password."""
    ca_file: Path | None = None
    """Certificates that the peer's must descend from, or be; for DICOMweb the system's when empty."""
    tls: bool = False
    """Whether a DIMSE peer is spoken to over TLS."""
    certificate: Path | None = None
    """Ours towards a peer that wants to see one (PEM)."""
    key: Path | None = None
    """Its private key (PEM, not encrypted)."""
    server_name: str | None = None
    """Name that the certificate of a TLS peer must bear; ``host`` when empty."""
    check_server_name: bool = True
    """False: any certificate that descends from ``ca_file`` will do, whoever's name it bears."""
    calling_ae_title: AeTitle | None = None
    """Our title towards this peer; the title of ``receive`` when empty."""
    results: bool = True
    """Whether this peer gets results. False for one that is only asked for studies."""
    required: bool = True
    """A job is DELIVERED when every required peer has everything."""
    captures: Literal["key", "all", "overview", "none"] = "key"
    """Which Secondary Captures this peer gets: overview and worst image per slab, every image, overview only."""
    presentation_states: bool = False
    """Whether this peer gets GSPS objects that draw box and label on the original images."""
    commitment: bool = False
    """Ask the peer for Storage Commitment; results count as delivered only when it has committed to them."""
    commitment_wait_s: Seconds = 600
    """Without an answer for this long, commitment is asked for again."""
    rejection_notes: bool = False
    """Whether the peer acts on IHE IOCM rejection notes: they then withdraw what is recalled or superseded."""
    query: Literal["none", "find", "get", "move"] = "none"
    """Whether studies from this peer are compared with what it has (``find``) and gaps fetched (``get``, ``move``).

    It applies to instances whose calling AE title is this peer's ``ae_title``."""
    timeout_s: Seconds = 30
    retry_base_s: Seconds = 30
    """Back-off after the first failed attempt; doubles each time, with jitter."""
    retry_cap_s: Seconds = 3600
    max_attempts: Annotated[int, Field(ge=1)] = 20

    @model_validator(mode="after")
    def _complete(self) -> Peer:
        needed = ("ae_title", "host", "port") if self.protocol == "dimse" else ("url",)
        if missing := [key for key in needed if getattr(self, key) is None]:
            raise ValueError(f"a {self.protocol} peer needs {', '.join(missing)}")
        only = ("url", "username", "password", "token") if self.protocol == "dimse" else ("host", "port", "server_name")
        if strange := [key for key in only if getattr(self, key) is not None]:
            raise ValueError(f"a {self.protocol} peer has no {', '.join(strange)}")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both or neither")
        if self.protocol == "dicomweb":
            self._check_web()
        else:
            self._check_tls()
        return self

    def _check_tls(self) -> None:
        if self.tls and self.ca_file is None:
            raise ValueError("tls needs ca_file: the authority that the peer's certificate descends from")
        given = [key for key in ("ca_file", "certificate", "server_name") if getattr(self, key) is not None]
        if not self.tls and given:
            raise ValueError(f"{', '.join(given)} would have no effect: set tls = true")

    def _check_web(self) -> None:
        parts = urlsplit(self.url or "")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url begins with http:// or https:// and names a host")
        if parts.username or parts.password:
            raise ValueError("url holds no user name or password: use username and password")
        if (self.username is None) != (self.password is None) or (self.token and self.username):
            raise ValueError("give username and password together, or token alone")
        for key in ("commitment", "rejection_notes"):
            if getattr(self, key):
                raise ValueError(f"{key} needs a dimse peer")
        if self.tls or not self.check_server_name:
            raise ValueError("tls and check_server_name are of dimse peers: the url says https://")
        if self.query != "none":
            raise ValueError("query needs a dimse peer")

    @field_serializer("password", "token", when_used="json")
    def _show(self, secret: SecretStr | None, info: FieldSerializationInfo) -> str | None:
        """Stars, unless the context says that the reader is a process of this node."""
        if secret is None:
            return None
        return secret.get_secret_value() if (info.context or {}).get("secrets") == "shown" else str(secret)

    @property
    def dimse(self) -> tuple[str, str, int]:
        """AE title, host and port of a DIMSE peer. ValueError for another."""
        if self.protocol != "dimse" or self.ae_title is None or self.host is None or self.port is None:
            raise ValueError("not a DIMSE peer")
        return self.ae_title, self.host, self.port

    @property
    def address(self) -> str:
        """Host name or address the peer is reached at."""
        return self.host or urlsplit(self.url or "").hostname or ""

    @property
    def is_loopback(self) -> bool:
        """Whether the peer is on this machine."""
        return is_loopback(self.address)
