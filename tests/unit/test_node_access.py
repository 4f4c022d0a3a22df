"""What must hold before a node that others can reach starts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stenosis_node.config import Config, load
from stenosis_node.errors import ConfigError
from stenosis_node.node.access import check_access, check_tls, describe_access, own_certificates
from stenosis_node.node.health import certificate_problems
from tests.unit.certificates import Authority

PACS = {"ae_title": "PACS", "host": "10.0.0.5", "port": 104}


def config(folder: Path, peers: dict[str, Any] | None = None, **receive: Any) -> Config:
    return load(
        None,
        overrides={
            "spool": str(folder), "grading": {"bundle": str(folder)}, "receive": receive, "peers": peers or {},
        },
    )  # fmt: skip


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.9", "node.example", ""])
def test_a_node_that_others_reach_lets_somebody_in(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match=r"receive.allowed_addresses .* or receive.calling_ae_titles"):
        check_access(config(tmp_path, host=host))
    web = {"protocol": "dicomweb", "url": "https://pacs.example"}
    with pytest.raises(ConfigError, match="nobody is allowed"):
        check_access(config(tmp_path, {"web": web}, host=host))  # it has no AE title to call from
    for receive in ({"allowed_addresses": ["10.0.0.0/8"]}, {"calling_ae_titles": ["CT1"]}, {"allow_any": True}):
        check_access(config(tmp_path, host=host, **receive))
    check_access(config(tmp_path, {"pacs": PACS}, host=host))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_loopback_needs_no_rules(tmp_path: Path, host: str) -> None:
    check_access(config(tmp_path, host=host))
    assert describe_access(config(tmp_path, host=host)) == "every program on this machine"


def test_certificates_of_callers_and_peers(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    node, soon = authority.issue("node", days=90), authority.issue("soon", days=3)
    tls = {"certificate": str(node.certificate), "key": str(node.key), "client_ca": str(authority.ca)}
    secure = {**PACS, "tls": True, "ca_file": str(authority.ca)}
    own = {"certificate": str(soon.certificate), "key": str(soon.key)}
    made = config(tmp_path, {"pacs": {**secure, **own}, "again": {**secure, **own}}, tls=tls)
    check_tls(made)
    assert [one.key for one in own_certificates(made)] == ["receive.tls.certificate", "peers.pacs.certificate"]
    (problem,) = certificate_problems(made)
    assert problem.sentence.startswith("peers.pacs.certificate: hospital-soon.crt ends on 20")
    end = own_certificates(made)[0].end
    assert end is not None
    assert timedelta(days=89) < end - datetime.now(UTC) < timedelta(days=91)

    with pytest.raises(ConfigError, match=r"peers.pacs.ca_file: .*none.crt cannot be read"):
        check_tls(config(tmp_path, {"pacs": {**secure, "ca_file": str(tmp_path / "none.crt")}}))
    soon.certificate.unlink()
    assert "cannot be read" in certificate_problems(made)[0].sentence


def test_paths_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(
        'spool = "spool"\n[grading]\nbundle = "b"\n'
        '[receive.tls]\ncertificate = "node.crt"\nkey = "keys/node.key"\nrequire_client_certificate = false\n'
        '[peers.pacs]\nae_title = "PACS"\nhost = "10.0.0.5"\nport = 2762\ntls = true\nca_file = "ca.crt"\n'
    )
    made = load(path)
    assert made.receive.tls.key == tmp_path / "keys" / "node.key"
    assert made.peers["pacs"].ca_file == tmp_path / "ca.crt"
    assert Config.model_validate_json(made.model_dump_json()) == made  # how the processes of the node get it


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"tls": True}, "tls needs ca_file"),
        ({"ca_file": "ca.crt"}, "set tls = true"),
        ({"tls": True, "ca_file": "ca.crt", "certificate": "node.crt"}, "belong together"),
    ],
)
def test_peers_whose_tls_makes_no_sense(tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(tmp_path, {"pacs": {**PACS, **keys}})
