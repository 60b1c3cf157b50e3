"""ArtifactWriter and its kinds: bytes that appear under their key when all are stored, or not at all."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import IO, Any
from uuid import uuid4

from pyarrow import fs

from deployments.errors import SourceTooLarge
from deployments.storage.storage_errors import translated

log = logging.getLogger(__name__)

PARTS = "parts"  # folder of unfinished artifacts
CHECK_BYTES = 16 << 20  # the free space is checked again after so many bytes
DIRECT_BYTES = 5 << 20  # objects up to this size are one request, which is atomic
COPY_BYTES = 5 << 30  # S3 copies no larger object


class ArtifactWriter(ABC):
    """Context: written bytes become the artifact when it is left without an error. Raises StorageUnavailable."""

    def __init__(self, require_space: Callable[[], None] = lambda: None) -> None:
        self.size = 0
        self._require_space = require_space
        self._checked = 0
        self._ended = False
        # A caller that is cancelled leaves the context while a thread may still write.
        self._lock = Lock()

    def write(self, data: bytes | memoryview) -> None:
        with self._lock, translated():
            if self._ended:
                raise ValueError("the artifact is closed")
            if self.size - self._checked >= CHECK_BYTES:
                self._checked = self.size
                self._require_space()
            self._write(data)
            self.size += len(data)

    def touch(self) -> None:
        """Keep the unfinished artifact from being swept while nothing is written."""
        with self._lock, translated():
            if not self._ended:
                self._touch()

    def __enter__(self) -> ArtifactWriter:
        self._require_space()
        with translated():
            self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._ended = True
            if kind is not None:
                self._discard()
                return
            try:
                with translated():
                    self._commit()
            except BaseException:
                self._discard()
                raise

    def _discard(self) -> None:
        # A leftover is swept later; the first error counts.
        try:
            self._abort()
        except OSError as error:
            log.warning("unfinished artifact could not be removed, the sweep will: %s", error)

    @abstractmethod
    def _touch(self) -> None: ...

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _write(self, data: bytes | memoryview) -> None: ...

    @abstractmethod
    def _commit(self) -> None: ...

    @abstractmethod
    def _abort(self) -> None: ...


class FileWriter(ArtifactWriter):
    """Writes a file beside the artifacts and renames it; a `durable` one survives a power cut once it is committed."""

    def __init__(self, root: Path, path: Path, synced: set[Path] | None, require_space: Callable[[], None]) -> None:
        super().__init__(require_space)
        self._root = root
        self._path = path
        self._synced = synced  # folders whose own entry is durable; None for a file that is not
        self._part = root / PARTS / uuid4().hex
        self._file: IO[bytes] | None = None

    def _open(self) -> None:
        self._part.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._part.open("xb")

    def _write(self, data: bytes | memoryview) -> None:
        assert self._file
        self._file.write(data)

    def _touch(self) -> None:
        os.utime(self._part)

    def _commit(self) -> None:
        assert self._file
        self._file.flush()
        if self._synced is not None:
            os.fsync(self._file.fileno())
        self._file.close()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._part.replace(self._path)
        if self._synced is not None:
            self._sync_folders(self._synced)

    def _abort(self) -> None:
        if self._file:
            with suppress(OSError):  # a full disk refuses the rest of the buffer again
                self._file.close()
            self._part.unlink(missing_ok=True)

    def _sync_folders(self, synced: set[Path]) -> None:
        # The file's entry in its folder, and that of each folder in the one above, up to the root's own.
        for path in (folders := self._path.parents):
            sync(path)
            if path in synced or path == self._root.parent:
                break
        synced.update(path for path in folders if path.parent == self._root)


class ObjectWriter(ArtifactWriter):
    """Writes an object in one request; a long one as another object, which is copied once it is whole."""

    # Closing a stream of an object store completes the upload, also a broken one, and so does its destructor.
    def __init__(self, filesystem: fs.FileSystem, root: str, path: str, require_space: Callable[[], None]) -> None:
        super().__init__(require_space)
        self._fs = filesystem
        self._path = path
        self._part = f"{root}/{PARTS}/{uuid4().hex}"
        self._buffer = bytearray()
        self._stream: Any = None  # of the other object

    def _touch(self) -> None:
        pass  # an upload that is not finished is in no listing

    def _open(self) -> None:
        pass

    def _write(self, data: bytes | memoryview) -> None:
        if self._stream is None and len(self._buffer) + len(data) <= DIRECT_BYTES:
            self._buffer += data
            return
        if self.size + len(data) > COPY_BYTES:
            raise SourceTooLarge("The file is larger than the 5 GiB that the storage takes: split it.")
        if self._stream is None:
            self._stream = self._fs.open_output_stream(self._part)
            self._stream.write(bytes(self._buffer))
            self._buffer.clear()
        self._stream.write(data)

    def _commit(self) -> None:
        if self._stream is None:
            with self._fs.open_output_stream(self._path) as stream:
                stream.write(bytes(self._buffer))
            return
        self._stream.close()
        stored = self._fs.get_file_info(self._part).size
        if stored != self.size:
            raise OSError(f"{stored} of {self.size} bytes were stored of {self._path}")
        self._fs.copy_file(self._part, self._path)
        self._discard()

    def _abort(self) -> None:
        if self._stream is not None:
            if not self._stream.closed:
                self._stream.close()
            self._fs.delete_file(self._part)


def sync(path: Path) -> None:
    """Make a file, or the entries of a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
