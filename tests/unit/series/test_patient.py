"""Patient keys: stable for a patient, different for a secret, and never the ID."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest

from stenosis_node.errors import ConfigError
from stenosis_node.series.patient import SECRET_ENV, PatientKeys, read_patient_key
from tests.unit.series.builder import write_series

SECRET = b"0f1e2d3c4b5a69788796a5b4c3d2e1f00123456789abcdef"
KEYS = PatientKeys(SECRET)


def test_the_key_is_an_hmac_of_issuer_and_id() -> None:
    expected = hmac.new(SECRET, b"patient\0HOSPITAL\0P1", hashlib.sha256).hexdigest()
    assert KEYS.key("P1", "Hospital") == expected


@pytest.mark.parametrize("text", [" p1", "P1 ", "p1\0", "Ｐ１"])
def test_ways_to_write_one_id_give_one_key(text: str) -> None:
    assert KEYS.key(text) == KEYS.key("P1")


def test_other_patients_issuers_and_secrets_give_other_keys() -> None:
    keys = {KEYS.key("P1"), KEYS.key("P2"), KEYS.key("01"), KEYS.key("1"), KEYS.key("P1", "A"), KEYS.key("P1A")}
    keys |= {PatientKeys(SECRET + b"x").key("P1"), KEYS.study_key("P1")}
    assert len(keys) == 8


def test_an_empty_id_is_no_patient(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a patient ID"):
        KEYS.key(" \0")
    path = write_series(tmp_path, PatientID=" ")[0]
    assert read_patient_key(path, KEYS) is None


def test_an_image_names_its_patient(tmp_path: Path) -> None:
    path = write_series(tmp_path, IssuerOfPatientID="HOSPITAL")[0]
    assert read_patient_key(path, KEYS) == KEYS.key("SECRET", "HOSPITAL")
    (tmp_path / "text").write_text("none", encoding="utf-8")
    with pytest.raises(ValueError, match="is no DICOM file"):
        read_patient_key(tmp_path / "text", KEYS)


def test_the_secret_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SECRET_ENV, raising=False)
    with pytest.raises(ConfigError, match=f"give --secret-file or set {SECRET_ENV}"):
        PatientKeys.load()
    monkeypatch.setenv(SECRET_ENV, SECRET.decode())
    file = tmp_path / "secret"
    file.write_bytes(SECRET + b"\n")
    assert PatientKeys.load().key("P1") == PatientKeys.load(file).key("P1") == KEYS.key("P1")
    with pytest.raises(ConfigError, match="cannot be read"):
        PatientKeys.load(tmp_path / "none")


@pytest.mark.parametrize("secret", [b"", b"short", b"a" * 64, b"abc" * 20, b" " * 40 + b"x"])
def test_secrets_that_can_be_guessed_are_refused_and_not_repeated(secret: bytes) -> None:
    with pytest.raises(ConfigError, match="at least 32 random characters") as caught:
        PatientKeys(secret)
    assert b"abcabc" not in str(caught.value).encode()
