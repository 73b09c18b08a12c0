"""Files in shared memory that several processes map: made whole, checked on attach, read as words and bytes.

Every shared fact is one aligned 64-bit word, stored and loaded whole. What must be seen together is ordered: a record
is marked dead, changed, marked alive, and only then counted by the word that readers look at. x86-64 shows stores to
other processors in that order, and loads are not overtaken either; other processors would need fences, which Python
cannot place, and are refused.
A plain file in /dev/shm has no resource tracker, works from any interpreter and is gone with its directory.
"""

from __future__ import annotations

import errno
import mmap
import os
import platform
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StartupError

PAGE = mmap.PAGESIZE
MAGIC = 0x4653_4D50_4950_0001
WORD = 8
TEXT_BYTES = 1024
"""Room for one text, which ends with a zero byte; a longer one is cut."""
ORDERED = platform.machine().lower() in ("x86_64", "amd64")
NOT_ORDERED = f"this program needs an x86-64 processor: {platform.machine()} does not keep stores in order"


def page_aligned(nbytes: int) -> int:
    return -(-nbytes // PAGE) * PAGE


class SharedFile:
    """One mapped file. ``words`` is its whole length as int64, ``data`` as uint8; word 0 is ``MAGIC``, word 1 the size.

    Memory is reserved when the file is made: a full /dev/shm is an error then, not a bus error later.
    """

    def __init__(self, path: Path, mapping: mmap.mmap) -> None:
        self.path = path
        self._mapping = mapping
        self.words: NDArray[np.int64] = np.frombuffer(mapping, np.int64)
        self.data: NDArray[np.uint8] = np.frombuffer(mapping, np.uint8)

    @classmethod
    def create(cls, path: Path, nbytes: int) -> SharedFile:
        """Makes the file under another name, reserves its memory and gives it its name; replaces an old one.

        Raises ``StartupError`` where shared memory is too small.
        """
        nbytes = page_aligned(nbytes)
        new = path.with_name(f".{path.name}.new")
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, nbytes)
            shared = cls(path, mmap.mmap(descriptor, nbytes))
        except OSError as error:
            new.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG):
                raise StartupError(too_small(path.parent, nbytes)) from error
            raise
        finally:
            os.close(descriptor)
        shared.words[1] = nbytes
        shared.words[0] = MAGIC
        new.rename(path)
        return shared

    @classmethod
    def attach(cls, path: Path) -> SharedFile:
        """Maps a file made by ``create``. Raises ``FileNotFoundError``, or ``StartupError`` for any other file."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            nbytes = os.fstat(descriptor).st_size
            if nbytes < PAGE or nbytes % PAGE:
                raise StartupError(f"{path}: {nbytes} bytes is not a shared file of this program")
            shared = cls(path, mmap.mmap(descriptor, nbytes))
        finally:
            os.close(descriptor)
        if int(shared.words[0]) != MAGIC or int(shared.words[1]) != nbytes:
            raise StartupError(f"{path}: was made by another version of this program")
        return shared

    def floats(self, first_word: int, count: int) -> NDArray[np.float64]:
        """``count`` words from ``first_word`` on, read as float64."""
        return self.words[first_word : first_word + count].view(np.float64)

    def put_text(self, first_byte: int, text: str) -> None:
        raw = text.encode()[: TEXT_BYTES - 1] + b"\0"
        self.data[first_byte : first_byte + len(raw)] = np.frombuffer(raw, np.uint8)

    def text(self, first_byte: int) -> str:
        """What ``put_text`` put there, empty before that."""
        raw = self.data[first_byte : first_byte + TEXT_BYTES].tobytes()
        return raw[: raw.index(b"\0")].decode(errors="replace")

    def close(self) -> None:
        """Lets go of this object's views. The mapping itself ends with the last view that somebody else still holds."""
        self.words = np.empty(0, np.int64)
        self.data = np.empty(0, np.uint8)
        try:
            self._mapping.close()
        except BufferError:
            return


def too_small(directory: Path, nbytes: int) -> str:
    """What to tell the user when ``nbytes`` do not fit into ``directory``."""
    stat = os.statvfs(directory)
    free, whole = stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize
    return (
        f"shared memory at {directory} is too small: {nbytes / 1e6:.1f} MB are needed, {free / 1e6:.1f} of "
        f"{whole / 1e6:.1f} MB are free; enlarge it (mount -o remount,size=512m /dev/shm; docker run --shm-size=512m)"
    )
