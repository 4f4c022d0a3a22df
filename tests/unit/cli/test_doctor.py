"""doctor, version and probe: what they find, what they say to do about it, and what they return."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stenosis_node import __version__
from stenosis_node.cli import checks
from stenosis_node.config import load
from stenosis_node.grading.manifest import read_manifest
from stenosis_node.jobs import JobStore
from tests.unit.certificates import Authority
from tests.unit.cli.conftest import Ran, Run
from tests.unit.dicom_peers import storescp

PAST = "20200101000000Z"


@pytest.fixture
def ready(config: Path, weights: Path) -> Path:
    """A configuration whose bundle is there."""
    text = config.read_text(encoding="utf-8").replace('"bundle"', f'"{weights}"')
    config.write_text(text, encoding="utf-8")
    return config


def change(config: Path, old: str, new: str) -> None:
    text = config.read_text(encoding="utf-8")
    assert old in text
    config.write_text(text.replace(old, new), encoding="utf-8")


def levels(done: Ran) -> dict[str, str]:
    return {finding["about"]: finding["level"] for finding in done.json["findings"]}


def finding(done: Ran, about: str) -> dict[str, str]:
    (found,) = (f for f in done.json["findings"] if f["about"] == about)
    return dict(found)


def test_a_good_set_up_has_only_the_warning_about_the_weights(run: Run, ready: Path) -> None:
    done = run("doctor", "-c", ready, "--json", "--offline")
    assert done.code == 0
    bad = {about: level for about, level in levels(done).items() if level != "ok"}
    assert bad == {"bundle": "warn"}
    assert levels(done).keys() >= {"configuration", "networks", "codecs", "device", "spool", "free space", "port"}


def test_the_text_names_each_fix_and_fits_100_columns(run: Run, ready: Path) -> None:
    done = run("doctor", "-c", ready)
    assert done.code == 1
    assert "-> check peers.pacs" in done.out
    assert "\x1b" not in done.out
    assert max(len(line) for line in done.out.splitlines()) <= 100


def test_it_changes_nothing(run: Run, ready: Path, tmp_path: Path) -> None:
    (tmp_path / "spool").rmdir()
    assert finding(run("doctor", "-c", ready, "--json", "--offline"), "spool")["level"] == "ok"
    assert not (tmp_path / "spool").exists()


def test_without_a_configuration_it_still_checks_the_software(run: Run) -> None:
    done = run("doctor", "--json")
    assert done.code == 2
    assert levels(done) == {"configuration": "fail", "networks": "ok", "codecs": "ok"}
    found = finding(done, "configuration")
    assert "stenosis-node init" in str(found["fix"])
    assert "stenosis-node init" not in found["sentence"]


def test_a_bundle_that_is_missing_or_changed(run: Run, config: Path, weights: Path, tmp_path: Path) -> None:
    missing = run("doctor", "-c", config, "--json", "--offline")
    assert missing.code == 1
    assert "grading.bundle" in finding(missing, "bundle")["sentence"]
    copy = tmp_path / "bundle"
    copy.mkdir()
    for file in weights.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    with (copy / "grade.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    changed = finding(run("doctor", "-c", config, "--json", "--offline"), "bundle")
    assert changed["level"] == "fail"
    assert "was changed" in changed["sentence"]
    assert "copy the bundle again" in changed["fix"]


def test_the_safety_gate(run: Run, ready: Path) -> None:
    change(ready, 'ae_title = "PACS"\nhost = "127.0.0.1"', 'ae_title = "PACS"\nhost = "192.0.2.1"')
    gate = finding(run("doctor", "-c", ready, "--json", "--offline"), "safety")
    assert gate["level"] == "fail"
    assert "safety.allow_demonstration_delivery" in gate["sentence"]


def test_a_port_in_use_by_another_program(run: Run, ready: Path) -> None:
    change(ready, "timeout_s = 5", "timeout_s = 1")
    with socket.socket() as other:
        other.bind(("127.0.0.1", load(ready).receive.port))
        other.listen()
        port = finding(run("doctor", "-c", ready, "--json", "--offline"), "port")
    assert port["level"] == "fail"
    assert "in use" in port["sentence"]


def test_a_port_where_a_dicom_node_answers_is_fine(run: Run, ready: Path, tmp_path: Path) -> None:
    with storescp(tmp_path / "received") as port:
        change(ready, f"port = {load(ready).receive.port}", f"port = {port}")
        found = finding(run("doctor", "-c", ready, "--json", "--offline"), "port")
    assert found["level"] == "ok"
    assert "a node answers" in found["sentence"]


@pytest.mark.parametrize(
    ("keys", "level", "words"),
    [
        ("", "ok", "pacs and every program on this machine"),
        ('calling_ae_titles = ["CT1"]', "warn", "1 calling AE title, and the peers"),
        (
            'calling_ae_titles = ["CT1"]\nallowed_addresses = ["10.0.0.0/8"]',
            "ok",
            "1 address or network with 1 calling",
        ),
        ("allow_any = true", "warn", "anyone who reaches the port"),
    ],
)
def test_who_may_send_to_a_node_that_others_reach(run: Run, ready: Path, keys: str, level: str, words: str) -> None:
    assert finding(run("doctor", "-c", ready, "--json", "--offline"), "access")["level"] == "ok"
    change(ready, "[receive]", f'[receive]\nhost = "0.0.0.0"\n{keys}')
    done = run("doctor", "-c", ready, "--json", "--offline")
    found = finding(done, "access")
    assert (found["level"], words in found["sentence"]) == (level, True)
    assert finding(done, "TLS")["level"] == "warn"


def test_nobody_may_send(run: Run, ready: Path) -> None:
    text = ready.read_text(encoding="utf-8").replace("[receive]", '[receive]\nhost = "0.0.0.0"')
    ready.write_text(text.partition("[peers.")[0], encoding="utf-8")
    done = run("doctor", "-c", ready, "--json", "--offline")
    assert done.code == 1
    found = finding(done, "access")
    assert "nobody is allowed to send" in found["sentence"]
    assert "receive.allow_any = true" in str(found["fix"])


def test_certificates_and_keys(run: Run, ready: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    own, old = authority.issue("node", days=90), authority.issue("old", not_before=PAST, not_after="20210101000000Z")

    def with_tls(certificate: Path, key: Path) -> Ran:
        tls = f'[receive.tls]\ncertificate = "{certificate}"\nkey = "{key}"\nclient_ca = "{authority.ca}"\n'
        path = tmp_path / "tls.toml"
        path.write_text(ready.read_text(encoding="utf-8") + tls, encoding="utf-8")
        return run("doctor", "-c", path, "--json", "--offline")

    good = with_tls(own.certificate, own.key)
    assert finding(good, "TLS")["sentence"] == "for callers: TLS with certificates"
    assert finding(good, "certificate")["level"] == "ok"
    assert "private key" not in levels(good)
    own.key.chmod(0o644)
    exposed = finding(with_tls(own.certificate, own.key), "private key")
    assert exposed["level"] == "fail"
    assert "everybody can read" in exposed["sentence"]
    assert exposed["fix"] == f"chmod 600 {own.key}"
    own.key.chmod(0o640)
    assert finding(with_tls(own.certificate, own.key), "private key")["level"] == "warn"
    assert finding(with_tls(old.certificate, old.key), "certificate")["level"] == "fail"
    soon = authority.issue("soon", days=10)
    assert finding(with_tls(soon.certificate, soon.key), "certificate")["level"] == "warn"
    broken = with_tls(own.certificate, old.key)
    assert broken.code == 1
    assert "is not the key of" in finding(broken, "TLS")["sentence"]


def test_a_device_that_is_not_there(run: Run, ready: Path) -> None:
    change(ready, "[grading]", '[grading]\ndevice = "cuda:77"')
    assert finding(run("doctor", "-c", ready, "--json", "--offline"), "device")["level"] == "fail"


def test_the_database(run: Run, ready: Path, store: JobStore) -> None:
    assert "no jobs" in finding(run("doctor", "-c", ready, "--json", "--offline"), "database")["sentence"]
    change(ready, "[receive]", '[jobs]\ndatabase_url = "postgresql+psycopg://nobody@127.0.0.1:1/none"\n[receive]')
    unreachable = finding(run("doctor", "-c", ready, "--json", "--offline"), "database")
    assert unreachable["level"] == "fail"
    assert "jobs.database_url" in str(unreachable["fix"])


def test_no_room_in_the_spool(run: Run, ready: Path) -> None:
    change(ready, "[receive]", "[receive]\nmin_free_mb = 999999999")
    done = run("doctor", "-c", ready, "--json", "--offline")
    assert finding(done, "free space")["level"] == "fail"


def test_a_spool_that_is_a_file(run: Run, ready: Path, tmp_path: Path) -> None:
    (tmp_path / "spool").rmdir()
    (tmp_path / "spool").write_text("", encoding="utf-8")
    spool = finding(run("doctor", "-c", ready, "--json", "--offline"), "spool")
    assert spool["level"] == "fail"
    assert "is a file, not a folder" in spool["sentence"]


def test_a_spool_on_a_network_file_system(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_file_system", lambda _path: "nfs4")
    found = {f.about: f for f in checks.check_spool(load(ready))}
    assert found["spool disk"].level is checks.Level.FAIL


def test_a_missing_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CODECS", {**checks.CODECS, "no_such_module": "JPEG 1992"})
    (codecs,) = (f for f in checks.check_software() if f.about == "codecs")
    assert (codecs.level, codecs.sentence) == (checks.Level.FAIL, "not installed: JPEG 1992")


# --------------------------------------------------------------------------- version


def test_version_without_a_configuration(run: Run) -> None:
    found = run("version", "--json").json
    assert found["version"] == __version__
    assert found["bundle"] is None
    assert found["packages"]["pydicom"]
    assert "not for clinical use" in run("version").out


def test_version_with_a_bundle_gives_its_digest(run: Run, ready: Path, weights: Path) -> None:
    digest = read_manifest(weights).digest()
    assert run("version", "-c", ready, "--json").json["bundle"]["digest"] == digest
    assert digest in run("version", "-c", ready).out


def test_version_with_a_bundle_that_is_missing(run: Run, config: Path) -> None:
    done = run("version", "-c", config)
    assert done.code == 2
    assert "manifest.json" in done.err


# --------------------------------------------------------------------------- probe


def test_probe_lists_what_the_peer_accepts(run: Run, config: Path, tmp_path: Path) -> None:
    with storescp(tmp_path / "received") as port:
        change(config, f"port = {load(config).peers['pacs'].port}", f"port = {port}")
        done = run("probe", "pacs", "-c", config, "--json")
        text = run("probe", "pacs", "-c", config).out
    assert done.code == 0
    assert done.json["echo_ok"] is True
    accepted = {one["sop_class_uid"]: one for one in done.json["accepted"]}
    capture = accepted["1.2.840.10008.5.1.4.1.1.7"]
    assert capture["name"] == "Secondary Capture Image Storage"
    assert "Explicit VR Little Endian" in capture["transfer_syntaxes"]
    assert "Comprehensive 3D SR Storage" in " ".join(text.split())


def test_probe_has_reports_sent_in_the_class_it_found_best(run: Run, config: Path, tmp_path: Path) -> None:
    settings = load(config)
    settings.spool.mkdir(parents=True, exist_ok=True)
    store = JobStore(settings.database_url)
    store.migrate()
    store.remember_capability("pacs", report_class="1.2.840.10008.5.1.4.1.1.88.22")
    with storescp(tmp_path / "received") as port:
        change(config, f"port = {settings.peers['pacs'].port}", f"port = {port}")
        assert run("probe", "pacs", "-c", config).code == 0
    known = store.capability("pacs")
    store.close()
    assert known is not None
    assert known.report_class == "1.2.840.10008.5.1.4.1.1.88.34"


def test_probe_of_a_silent_peer_gives_4(run: Run, config: Path) -> None:
    done = run("probe", "pacs", "-c", config)
    assert done.code == 4
    assert done.err.startswith("stenosis-node: pacs:")
    as_json = run("probe", "pacs", "-c", config, "--json")
    assert as_json.code == 4
    assert as_json.json["echo_ok"] is False


def test_probe_of_an_unknown_peer_gives_3_and_names_the_known(run: Run, config: Path) -> None:
    done = run("probe", "psca", "-c", config)
    assert done.code == 3
    assert "known: pacs" in done.err


def test_the_audit_stream_is_looked_at_before_serve_refuses_it(run: Run, ready: Path, tmp_path: Path) -> None:
    assert finding(run("doctor", "-c", ready, "--json", "--offline"), "audit")["level"] == "ok"

    authority = Authority(tmp_path / "authority")
    old = authority.issue("old", not_before=PAST, not_after="20210101000000Z")
    (tmp_path / "file").touch()
    text = ready.read_text(encoding="utf-8")
    syslog = f'syslog_host = "127.0.0.1"\nsyslog_ca_file = "{authority.ca}"\n'
    ready.write_text(
        f'{text}[audit]\n{syslog}syslog_certificate = "{old.certificate}"\nsyslog_key = "{old.key}"\n', encoding="utf-8"
    )
    done = run("doctor", "-c", ready, "--json", "--offline")
    assert "go to 127.0.0.1 port 6514" in finding(done, "audit")["sentence"]
    assert "audit.syslog_certificate" in finding(done, "certificate")["sentence"]
    assert done.code == 1

    ready.write_text(f"{text}[audit]\n{syslog.replace(str(authority.ca), str(tmp_path / 'file'))}", encoding="utf-8")
    assert "audit.syslog_ca_file" in finding(run("doctor", "-c", ready, "--json", "--offline"), "TLS")["sentence"]


@pytest.mark.parametrize("verb", ["jobs", "status", "doctor --offline", "fsck"])
def test_a_spool_of_another_user_is_named_with_what_to_do(ready: Path, tmp_path: Path, verb: str) -> None:
    spool = tmp_path / "spool"
    spool.mkdir(exist_ok=True)
    spool.chmod(0)
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*without, sys.executable, "-m", "stenosis_node", *verb.split(), "-c", str(ready)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    spool.chmod(0o700)
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode in (1, 2), said
    assert "as the user of the node" in said
    assert "Traceback" not in said
