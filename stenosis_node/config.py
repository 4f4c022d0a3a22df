"""One settings tree from one TOML file, overridden by the environment. An unknown key is an error that names it.

Environment variables are ``STENOSIS_NODE__SECTION__KEY`` (two underscores between levels), for example
``STENOSIS_NODE__RECEIVE__PORT=11113``. They win over the file. Paths in the file are relative to the file.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_origin
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FieldSerializationInfo,
    SecretStr,
    ValidationError,
    field_serializer,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from stenosis_node.errors import ConfigError

ENV_PREFIX = "STENOSIS_NODE__"


def _ae_title(value: str) -> str:
    text = value.strip(" ")
    if not 1 <= len(text) <= 16 or not re.fullmatch(r"[ -\[\]-~]+", text):
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return text


def _network(value: object) -> object:
    """An address is the network of itself. ValueError with what to write instead."""
    if not isinstance(value, str):
        return value
    try:
        lax = ip_network(value.strip(), strict=False)
    except ValueError:
        raise ValueError(f"{value!r} is no address or network: write 10.0.0.5, 10.0.0.0/24 or fd00::/8") from None
    try:
        ip_network(value.strip())
    except ValueError:
        raise ValueError(f"{value!r} has bits beyond its prefix: write {lax}, or the address alone") from None
    mapped = lax.network_address.ipv4_mapped if isinstance(lax, IPv6Network) and lax.prefixlen >= 96 else None
    return lax if mapped is None else ip_network((mapped, lax.prefixlen - 96))


AeTitle = Annotated[str, AfterValidator(_ae_title)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


_S = TypeVar("_S", bound=_Section)


class Tls(_Section):
    """TLS for callers. With a certificate the port speaks TLS and nothing else. Changed files count for new callers."""

    certificate: Path | None = None
    """Our certificate in PEM, then those that lead to its authority."""
    key: Path | None = None
    """Its private key in PEM, not encrypted, readable by the node's user only."""
    client_ca: Path | None = None
    """Authorities that callers' certificates must descend from (PEM); revocation lists in it are applied."""
    require_client_certificate: bool = True
    """Refuse callers without a certificate of ``client_ca``."""

    @model_validator(mode="after")
    def _complete(self) -> Tls:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both, or neither for no TLS")
        if self.certificate is None and self.client_ca is not None:
            raise ValueError("client_ca has no effect without certificate and key")
        if self.certificate is not None and self.require_client_certificate and self.client_ca is None:
            raise ValueError(
                "client_ca is needed: the authority of the callers' certificates; or set "
                "require_client_certificate = false to let callers in without one"
            )
        return self

    @property
    def is_on(self) -> bool:
        """Whether callers must speak TLS."""
        return self.certificate is not None


class Receive(_Section):
    """The C-STORE and C-ECHO provider."""

    ae_title: AeTitle = "STENOSIS"
    host: str = "127.0.0.1"
    port: Port = 11112
    check_called_ae_title: bool = True
    """Refuse associations that call another AE title than ours."""
    calling_ae_titles: tuple[AeTitle, ...] = ()
    """Calling AE titles that may associate, beside the peers."""
    allowed_addresses: tuple[Network, ...] = ()
    """Addresses and networks whose callers may associate, beside the peers."""
    allow_any: bool = False
    """Let anyone associate who reaches ``host``. Without it and without lists: the peers and this machine alone."""
    max_associations: Annotated[int, Field(ge=1, le=500)] = 50
    max_associations_per_caller: Annotated[int, Field(ge=0)] = 25
    """From one address, or of one calling AE title; 0: no limit. Not applied while ``host`` is loopback."""
    max_associations_per_minute: Annotated[int, Field(ge=0)] = 600
    """From one address; 0: no limit. Not applied while ``host`` is loopback."""
    max_object_mb: Annotated[int, Field(ge=1)] = 2048
    """A larger data set is refused with 0xA700 (out of resources)."""
    network_timeout_s: Seconds = 60
    """An association that says nothing for this long is aborted."""
    min_free_mb: Annotated[int, Field(ge=0)] = 500
    """Below this much free space on a disk of spool or SQLite, instances are refused with 0xA700 before it is full."""
    tls: Tls = Tls()
    fast_path: bool = True
    """Serve associations that only store or verify by the lean path; False: all of them by pynetdicom."""

    @model_validator(mode="after")
    def _one_rule(self) -> Receive:
        if self.allow_any and (self.calling_ae_titles or self.allowed_addresses):
            raise ValueError(
                "allow_any contradicts calling_ae_titles and allowed_addresses: remove it, or empty the lists"
            )
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether nobody but this machine can call."""
        return _is_loopback(self.host)


class Jobs(_Section):
    """The queue."""

    database_url: str | None = None
    """SQLAlchemy URL, ``postgresql+psycopg://...``; without it SQLite in the spool. One node per database for now."""
    quiet_period_s: Annotated[float, Field(ge=0)] = 180
    """A study is complete when no new MR instance arrived for this long."""
    ceiling_s: Seconds = 3600
    """Counted from the first instance: after this the study is graded even if instances still arrive."""
    lease_s: Seconds = 60
    max_attempts: Annotated[int, Field(ge=1)] = 3
    grade_limit_s: Seconds = 900
    """Longest time one study may take to grade before its worker is ended and the attempt counted."""
    retry_base_s: Seconds = 15
    """Back-off after the first failure of a grading step; doubles each time."""
    retry_cap_s: Seconds = 900


class Grading(_Section):
    """The networks."""

    bundle: Path
    """Folder of the weights bundle (manifest.json and safetensors)."""
    bundle_digest: str | None = None
    """sha256 of the manifest; when set, any other bundle is refused."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """``auto`` takes bf16 where the processor computes it natively."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Threads of the grading process; 0 leaves it to torch."""
    batch_size: Annotated[int, Field(ge=1)] = 16


class Report(_Section):
    """The objects sent back."""

    series_number: Annotated[int, Field(ge=1)] = 9900
    """Of the SR; the Secondary Captures get the next one."""
    manufacturer: str = "stenosis-node project"
    station_name: str = "STENOSIS-NODE"
    device_uid: str | None = None
    """UID of this installation (Device Observer UID); derived from the AE title when empty."""
    device_serial_number: str = "1"


class Peer(_Section):
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
        return _is_loopback(self.address)


class SeriesRule(_Section):
    """A rule of the site about series: the first that matches decides, before the node's own rules look at contrast.

    Texts are compared as regular expressions, anywhere, without regard to case. At least one ``match`` key is needed.
    """

    action: Literal["pin", "veto"]
    """``pin``: grade it although the rules about contrast, region or repeats say no. ``veto``: never grade it."""
    why: str = ""
    """Said on the job."""
    series_description: str | None = None
    protocol_name: str | None = None
    station_name: str | None = None
    manufacturer: str | None = None
    calling_ae_title: str | None = None

    @model_validator(mode="after")
    def _patterns(self) -> SeriesRule:
        patterns = {key: text for key, text in self.matches.items() if text is not None}
        if not patterns:
            raise ValueError(f"a rule needs one of {', '.join(self.matches)}")
        for key, text in patterns.items():
            try:
                re.compile(text)
            except re.error as error:
                raise ValueError(f"{key}: not a regular expression: {error}") from error
        return self

    @property
    def matches(self) -> dict[str, str | None]:
        """Key to pattern."""
        return {
            "series_description": self.series_description,
            "protocol_name": self.protocol_name,
            "station_name": self.station_name,
            "manufacturer": self.manufacturer,
            "calling_ae_title": self.calling_ae_title,
        }


class Series(_Section):
    """Which series are graded."""

    rules: tuple[SeriesRule, ...] = ()


class Metrics(_Section):
    """Counters and gauges for Prometheus over HTTP, and a health check."""

    port: Port | None = None
    """None: no HTTP server."""
    host: str = "127.0.0.1"


class Retention(_Section):
    """What is deleted, and when."""

    keep_ungradable: bool = False
    """Keep bytes that can never be graded (CT, screen saves, rejected series) after the study is closed."""
    instances_days: Annotated[float, Field(ge=0)] = 7
    """Received instances of a finished study are deleted after this many days."""
    documents_days: Annotated[float, Field(ge=0)] = 90


class Audit(_Section):
    """The audit stream: who sent, got, saw and deleted what; the only place where a Patient ID is written."""

    file: Path | None = None
    """One DICOM audit message a line; ``audit.log`` in the spool when empty."""
    source_id: str = ""
    """Name of this node in the messages; the AE title when empty."""
    site_id: str = ""
    """Name of the hospital in the messages."""
    syslog_host: str | None = None
    """Syslog server that the messages are sent to, over TLS; None: they stay in the file."""
    syslog_port: Port = 6514
    syslog_ca_file: Path | None = None
    """Certificates that the server's must descend from (PEM)."""
    syslog_certificate: Path | None = None
    """Ours, for a server that wants to see one (PEM)."""
    syslog_key: Path | None = None
    """Its private key (PEM, not encrypted)."""

    @model_validator(mode="after")
    def _complete(self) -> Audit:
        if (self.syslog_certificate is None) != (self.syslog_key is None):
            raise ValueError("syslog_certificate and syslog_key belong together: give both or neither")
        if self.syslog_host is not None and self.syslog_ca_file is None:
            raise ValueError("syslog_host needs syslog_ca_file: the authority of the server's certificate")
        if self.syslog_host is None and (self.syslog_ca_file or self.syslog_certificate):
            raise ValueError("syslog_ca_file and syslog_certificate have no effect without syslog_host")
        return self


class Safety(_Section):
    """See docs/decisions/0002: phantom-trained grades must not reach a clinical archive by accident."""

    allow_demonstration_delivery: bool = False
    """Allow results of a demonstration bundle to be sent to a peer that is not on this machine."""


class Config(BaseSettings):
    """The whole configuration, frozen. Make it with :func:`load`."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter="__")

    spool: Path
    """Folder for received instances, documents and, with SQLite, the database. Must be on a local disk."""
    grading: Grading
    receive: Receive = Receive()
    jobs: Jobs = Jobs()
    report: Report = Report()
    series: Series = Series()
    metrics: Metrics = Metrics()
    peers: dict[str, Peer] = Field(default_factory=dict)
    """Name to peer; the name is what the CLI shows."""
    retention: Retention = Retention()
    safety: Safety = Safety()
    audit: Audit = Audit()
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file (which arrives as init settings)."""
        return EnvSettingsSource(settings_cls), init_settings

    @model_validator(mode="after")
    def _names(self) -> Config:
        titles: dict[str, str] = {}
        for name, peer in self.peers.items():
            if peer.query != "none" and (other := titles.setdefault(peer.ae_title or "", name)) != name:
                raise ValueError(f"peers.{name}: peer {other} with the same ae_title is queried already")
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", name):
                raise ValueError(f"peers.{name}: a peer's name has 1 to 32 letters, digits, '-' or '_'")
        return self

    @property
    def audit_file(self) -> Path:
        """File of the audit stream."""
        return self.audit.file or self.spool / "audit.log"

    @property
    def database_url(self) -> str:
        """URL of the job database."""
        return self.jobs.database_url or f"sqlite:///{self.spool / 'jobs.db'}"

    @property
    def written_folders(self) -> tuple[Path, ...]:
        """Folders of the node that may be on disks of their own: what is received, what is made of it, the database."""
        database = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", self.database_url)
        made = (self.spool, *(self.spool / name for name in ("instances", "findings", "documents")))
        return made if database is None else (*made, Path(database[1]).parent)


class _KeysAlone(Config):
    """A configuration that no environment variable changes."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *others: Any, **named: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What was given, and nothing else."""
        return (init_settings,)


def _known_env(environ: Mapping[str, str]) -> None:
    """An environment variable of ours that names no key, or is not JSON where it must be, is an error."""
    for name, value in environ.items():
        if not name.startswith(ENV_PREFIX):
            continue
        parts = name[len(ENV_PREFIX) :].lower().split("__")
        model: type[BaseModel] | None = Config
        for i, part in enumerate(parts):
            if model is None or part not in model.model_fields:
                raise ConfigError(f"{name}: no such key {'.'.join(parts[: i + 1])!r}; see docs/configuration.md")
            if part == "peers":
                is_json = len(parts) < 3
                break
            kind = model.model_fields[part].annotation
            model = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
            is_json = model is not None or get_origin(kind) is tuple
        if is_json:
            _check_json(name, value)


def _check_json(name: str, value: str) -> None:
    try:
        json.loads(value)
    except ValueError:
        raise ConfigError(f'{name}: lists and tables are written as JSON in the environment, e.g. ["PACS"]') from None


def load(path: Path | None, *, overrides: Mapping[str, Any] | None = None, environment: bool = True) -> Config:
    """Read the configuration.

    path         TOML file; None takes everything from the environment
    overrides    nested mapping laid over the file (for the demo and tests)
    environment  whether variables are read, which win over both
    raises       ConfigError, one line per fault, each naming its key
    """
    tree: dict[str, Any] = {}
    base = Path.cwd()
    if path is not None:
        try:
            tree = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file; make one with 'stenosis-node init'") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from error
        base = path.resolve().parent
    for key, value in (overrides or {}).items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            tree[key].update(value)
        else:
            tree[key] = value
    if environment:
        _known_env(os.environ)
    try:
        config = Config(**tree) if environment else _KeysAlone(**tree)
    except ValidationError as error:
        file = str(path) if path is not None else "environment"
        faults = error.errors(include_url=False, include_input=False)
        lines = [f"{_variable(fault['loc'], os.environ) or file}: {_sentence(fault)}" for fault in faults]
        raise ConfigError("\n".join(lines)) from error
    tls = _placed(config.receive.tls, base, "certificate", "key", "client_ca")
    return config.model_copy(
        update={
            "spool": base / config.spool.expanduser(),
            "grading": _placed(config.grading, base, "bundle"),
            "receive": config.receive.model_copy(update={"tls": tls}),
            "audit": _placed(config.audit, base, "file", "syslog_ca_file", "syslog_certificate", "syslog_key"),
            "peers": {
                name: _placed(peer, base, "ca_file", "certificate", "key") for name, peer in config.peers.items()
            },
        }
    )


def _placed(section: _S, base: Path, *keys: str) -> _S:
    """The section with the paths of these keys seen from the folder of the file."""
    paths = {key: base / path.expanduser() for key in keys if (path := getattr(section, key)) is not None}
    return section.model_copy(update=paths)


def _variable(key: Sequence[int | str], environ: Mapping[str, str]) -> str | None:
    """The environment variable a key, or a table or list above it, came from; None when it is of the file."""
    given = {name.upper(): name for name in environ}
    for length in range(len(key), 0, -1):
        name = ENV_PREFIX + "__".join(str(part) for part in key[:length]).upper()
        if name in given:
            return given[name]
    return None


def _sentence(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"]) or "configuration"
    match error["type"]:
        case "missing":
            return f"{key}: this key is required"
        case "extra_forbidden":
            return f"{key}: unknown key"
        case _:
            return f"{key}: {error['msg'].removeprefix('Value error, ')}"
