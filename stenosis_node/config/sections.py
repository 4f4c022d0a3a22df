"""The tables of the configuration but those of peers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    model_validator,
)

from stenosis_node.config.values import AeTitle, Network, Port, Seconds, Section, is_loopback


class Tls(Section):
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


class Receive(Section):
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
        return is_loopback(self.host)


class Jobs(Section):
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


class Grading(Section):
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


class Report(Section):
    """The objects sent back."""

    series_number: Annotated[int, Field(ge=1)] = 9900
    """Of the SR; the Secondary Captures get the next one."""
    manufacturer: str = "stenosis-node project"
    station_name: str = "STENOSIS-NODE"
    device_uid: str | None = None
    """UID of this installation (Device Observer UID); derived from the AE title when empty."""
    device_serial_number: str = "1"


class SeriesRule(Section):
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


class Series(Section):
    """Which series are graded."""

    rules: tuple[SeriesRule, ...] = ()


class Metrics(Section):
    """Counters and gauges for Prometheus over HTTP, and a health check."""

    port: Port | None = None
    """None: no HTTP server."""
    host: str = "127.0.0.1"


class Retention(Section):
    """What is deleted, and when."""

    keep_ungradable: bool = False
    """Keep bytes that can never be graded (CT, screen saves, rejected series) after the study is closed."""
    instances_days: Annotated[float, Field(ge=0)] = 7
    """Received instances of a finished study are deleted after this many days."""
    documents_days: Annotated[float, Field(ge=0)] = 90
    quarantine_days: Annotated[float, Field(ge=0)] = 30
    """Received bytes that could not be kept as instances are deleted after this many days."""


class Audit(Section):
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


class Safety(Section):
    """See docs/decisions/0002: phantom-trained grades must not reach a clinical archive by accident."""

    allow_demonstration_delivery: bool = False
    """Allow results of a demonstration bundle to be sent to a peer that is not on this machine."""
