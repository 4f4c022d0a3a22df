"""The whole configuration, from file and environment."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_origin

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from stenosis_node.config.peer import Peer
from stenosis_node.config.sections import Audit, Grading, Jobs, Metrics, Receive, Report, Retention, Safety, Series
from stenosis_node.config.values import Section
from stenosis_node.errors import ConfigError

ENV_PREFIX: Final = "STENOSIS_NODE__"

_S = TypeVar("_S", bound=Section)


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
