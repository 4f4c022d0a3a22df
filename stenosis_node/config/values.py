"""What values of the configuration may be."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)


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


class Section(BaseModel):
    """A table of the file; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
