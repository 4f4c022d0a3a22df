"""A complete set of documents in a folder: files and documents.json, verified when they are read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from stenosis_node.domain import Document, DocumentKind
from stenosis_node.errors import PermanentError
from stenosis_node.spool.files import disk_errors, flush_folder, write_new

KEY: Final = re.compile(r"[0-9a-f]{8,128}")


def documents_in(root: Path, key: str) -> tuple[Document, ...] | None:
    """See :meth:`Spool.documents`. Makes nothing."""
    folder = root / "documents" / checked(key)
    with disk_errors(f"documents {key}"):
        try:
            listed = json.loads((folder / "documents.json").read_bytes())
            return tuple(_read_document(folder, entry) for entry in listed)
        except FileNotFoundError as error:
            if folder.exists():
                raise PermanentError(f"{error.filename} is missing in the spool; check the disk") from error
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise PermanentError(f"{folder / 'documents.json'} is damaged; check the disk") from error


def write_documents(folder: Path, documents: Sequence[Document]) -> None:
    entries = [_write_document(folder, f"{i:03d}", document) for i, document in enumerate(documents)]
    write_new(folder / "documents.json", json.dumps(entries, indent=1).encode("utf-8"))
    flush_folder(folder)


def _write_document(folder: Path, name: str, document: Document) -> dict[str, Any]:
    write_new(folder / f"{name}.dcm", document.content)
    return {
        "file": f"{name}.dcm",
        "sha256": hashlib.sha256(document.content).hexdigest(),
        "kind": document.kind,
        "sop_class_uid": document.sop_class_uid,
        "sop_instance_uid": document.sop_instance_uid,
        "series_instance_uid": document.series_instance_uid,
        "transfer_syntax_uid": document.transfer_syntax_uid,
        "key": document.key,
        "alternatives": [
            _write_document(folder, f"{name}-{i}", alternative) for i, alternative in enumerate(document.alternatives)
        ],
    }


def _read_document(folder: Path, entry: dict[str, Any]) -> Document:
    content = (folder / entry["file"]).read_bytes()
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise PermanentError(f"document {entry['sop_instance_uid']} is damaged in the spool; check the disk")
    return Document(
        kind=DocumentKind(entry["kind"]),
        sop_class_uid=entry["sop_class_uid"],
        sop_instance_uid=entry["sop_instance_uid"],
        series_instance_uid=entry["series_instance_uid"],
        transfer_syntax_uid=entry["transfer_syntax_uid"],
        content=content,
        key=entry["key"],
        alternatives=tuple(_read_document(folder, alternative) for alternative in entry["alternatives"]),
    )


def checked(key: str) -> str:
    if not KEY.fullmatch(key):
        raise ValueError(f"not a key: {key[:80]!r}")
    return key
