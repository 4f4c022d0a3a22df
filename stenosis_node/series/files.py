"""From paths to parsed headers: tolerant of everything a folder may hold, bounded in time and memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_partial
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from stenosis_node.errors import PermanentError, TransientError
from stenosis_node.wire.part10 import PIXEL_TAGS, UnreadableFile, deflated_data_set, inflate


class NotReadable(Exception):
    """The file is no DICOM instance that can be read; the text says why and names no patient attribute."""


class DiskFault(NotReadable):
    """The file is gone or the disk does not give it: nothing is known about what it holds."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot be read: {error.strerror or type(error).__name__}")
        self.gone = isinstance(error, FileNotFoundError | NotADirectoryError)

    def for_instance(self, sop_instance_uid: str) -> TransientError | PermanentError:
        """The error of the node when this was the file of a received instance: never silence about its image."""
        if self.gone:
            return PermanentError(
                f"the received file of instance {sop_instance_uid} is gone: send it again, then retry the job"
            )
        return TransientError(f"the received file of instance {sop_instance_uid} {self}; check the disk")


def is_disk_error(error: Exception) -> bool:
    """Whether the system refused to read. pydicom raises OSError for broken bytes too, then without a number."""
    return isinstance(error, OSError) and error.errno is not None


@dataclass(frozen=True, slots=True)
class OpenInstance:
    """A parsed header and where its pixel data is. Valid while the file is open."""

    header: Dataset
    transfer_syntax_uid: str
    stream: BinaryIO
    pixel_offset: int | None
    """Of the value of Pixel Data in ``stream``; None when there is no Pixel Data."""
    pixel_length: int
    """As declared; 0xFFFFFFFF for encapsulated frames."""
    stream_length: int

    @property
    def pixel_bytes(self) -> int:
        """Bytes of the pixel data that are really there (with whatever follows it)."""
        return 0 if self.pixel_offset is None else self.stream_length - self.pixel_offset


def find_files(folder: Path) -> tuple[Path, ...]:
    """Every file below ``folder``, sorted, without hidden files and folders. Links to folders are not followed."""
    found: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found.extend(Path(root) / name for name in names if not name.startswith("."))
    return tuple(sorted(path for path in found if path.is_file()))


@contextmanager
def open_instance(path: Path, tags: Sequence[int]) -> Iterator[OpenInstance]:
    """Open a file and parse the named attributes up to the pixel data.

    Files without preamble or file meta information are read too. Raises NotReadable, whatever the bytes are; DiskFault
    when they cannot be had.
    """
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            # pydicom quotes bad values in its warnings
            warnings.simplefilter("ignore")
            yield _parse(path, file, tags)
    except OSError as error:
        if is_disk_error(error):
            raise DiskFault(error) from error
        raise NotReadable(f"breaks the DICOM encoding ({type(error).__name__})") from error


def _parse(path: Path, file: BinaryIO, tags: Sequence[int]) -> OpenInstance:
    head = file.read(512)
    file.seek(0)
    if not head:
        raise NotReadable("is empty")
    bare = head[128:132] != b"DICM"
    if bare and not _looks_like_dataset(head):
        raise NotReadable("is not DICOM")
    try:
        if (deflated := deflated_data_set(path, file)) is not None:
            return _parse_deflated(deflated, tags)
        return _parse_plain(file, tags, bare=bare)
    except (NotReadable, OSError):
        raise
    except UnreadableFile as error:
        raise NotReadable(str(error)) from error
    except InvalidDicomError as error:
        raise NotReadable("is not DICOM") from error
    except Exception as error:  # any bytes may arrive here, and the parser fails in many ways
        raise NotReadable(f"breaks the DICOM encoding ({type(error).__name__})") from error


def _looks_like_dataset(head: bytes) -> bool:
    """Whether bytes without preamble start with group 0002 or 0008, in either byte order."""
    return head[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08") and (head[2] == 0 or head[3] == 0)


def _pixel_finder(place: list[int], position: Callable[[], int]) -> Callable[[int, str | None, int], bool]:
    """A stop condition for pydicom that notes where the value of the pixel data starts and its length."""

    def stop(tag: int, _vr: str | None, length: int) -> bool:
        if tag in PIXEL_TAGS:
            place[:] = (tag, position(), length)
            return True
        return False

    return stop


def _parse_plain(file: BinaryIO, tags: Sequence[int], *, bare: bool) -> OpenInstance:
    place: list[int] = []
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    header = read_partial(file, _pixel_finder(place, file.tell), force=bare, specific_tags=list(tags))
    syntax = str(header.file_meta.get("TransferSyntaxUID") or "")
    if not syntax:
        implicit, little = header.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    return _opened(header, syntax, file, place, size)


def _parse_deflated(deflated: BinaryIO, tags: Sequence[int]) -> OpenInstance:
    inflated = inflate(deflated)
    stream = BytesIO(inflated)
    place: list[int] = []
    stop = _pixel_finder(place, stream.tell)
    header = read_dataset(stream, False, True, stop_when=stop, specific_tags=list(tags))
    # inflated pixel data is native, little endian
    return _opened(header, ExplicitVRLittleEndian, stream, place, len(inflated))


def _opened(header: Dataset, syntax: str, stream: BinaryIO, place: list[int], size: int) -> OpenInstance:
    tag, offset, length = place or (0, None, 0)
    if tag != 0x7FE0_0010:
        offset, length = None, 0
    return OpenInstance(header, str(syntax), stream, offset, length, size)
