"""Patients without their names: a key that only who holds the secret of the site can recompute.

The key is an HMAC-SHA256 of Patient ID and Issuer of Patient ID. Neither is kept.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import unicodedata
from pathlib import Path
from typing import Final

from stenosis_node.errors import ConfigError
from stenosis_node.wire.part10 import UnreadableFile, read_header

SECRET_ENV: Final = "STENOSIS_PATIENT_SECRET"
MIN_SECRET: Final = 32
"""Bytes; patient IDs are so few that a secret which can be guessed hides nothing."""
MIN_DISTINCT: Final = 8
_ADVICE: Final = "make one with 'openssl rand -hex 32' and keep it out of what you share"


class PatientKeys:
    """Makes keys with the secret of a site. The secret is never shown."""

    def __init__(self, secret: bytes) -> None:
        """Raises ConfigError for a secret that is too short or too plain."""
        secret = secret.strip()
        if len(secret) < MIN_SECRET or len(set(secret)) < MIN_DISTINCT:
            raise ConfigError(f"the secret for patient keys needs at least {MIN_SECRET} random characters; {_ADVICE}")
        self._secret = secret

    @classmethod
    def load(cls, file: Path | None = None) -> PatientKeys:
        """From a file, else from the environment. Raises ConfigError."""
        if file is None:
            given = os.environ.get(SECRET_ENV)
            if given is None:
                raise ConfigError(f"no secret for patient keys: give --secret-file or set {SECRET_ENV}; {_ADVICE}")
            return cls(given.encode())
        try:
            return cls(file.read_bytes())
        except OSError as error:
            raise ConfigError(f"the secret {file} cannot be read ({error.strerror}); {_ADVICE}") from error

    def key(self, patient_id: str, issuer: str = "") -> str:
        """64 hexadecimal digits. ValueError for an empty ID: all patients without one would become one."""
        if not normalise(patient_id):
            raise ValueError("a patient key needs a patient ID")
        message = b"\0".join(part.encode() for part in ("patient", normalise(issuer), normalise(patient_id)))
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()

    def study_key(self, study_instance_uid: str) -> str:
        """For a study whose images name no patient: it counts as a patient of its own."""
        return hmac.new(self._secret, b"study\0" + study_instance_uid.encode(), hashlib.sha256).hexdigest()


def normalise(text: str) -> str:
    """An ID as it is compared: compatibility forms folded, capital letters, no padding."""
    return unicodedata.normalize("NFKC", text).replace("\0", "").strip().upper()


def read_patient_key(path: Path, keys: PatientKeys) -> str | None:
    """Key of the patient an instance belongs to; None when it names none. Raises OSError, ValueError (no DICOM)."""
    try:
        header = read_header(path, tags=["PatientID", "IssuerOfPatientID"])
    except UnreadableFile as error:
        raise ValueError(f"{path.name} is no DICOM file") from error
    patient = str(header.get("PatientID") or "")
    return keys.key(patient, str(header.get("IssuerOfPatientID") or "")) if normalise(patient) else None
