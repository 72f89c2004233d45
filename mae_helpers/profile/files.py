"""Files that are there whole or not at all, claims on them, and one clear error where a folder takes none."""

import errno
import os
import re
import secrets
import shutil
import socket
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from filelock import FileLock, Timeout

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}
WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
HOST = re.sub(r"\W", "_", socket.gethostname())  # without the "-" that ends it in a name
WAIT = 3600.0  # seconds that a claim of somebody else is respected: it may hang, and work done twice does no harm


class StorageError(OSError):
    """A place that cannot be written to: the message names the folder, what is missing and the remedy."""


def storage_error(error: OSError, path: Path, size: int | None = None) -> StorageError:
    """What went wrong with writing `path`, of `size` bytes where that is known, in words that say what to do."""
    folder = next(place for place in (path.parent, *path.parents) if place.is_dir())
    elsewhere = "or choose another folder (--results, --out), and run again: what is finished is kept"
    if error.errno in FULL:
        needed = "" if size is None else f"{size / 2**20:.1f} MB are to be written, "
        free = f"{needed}{shutil.disk_usage(folder).free / 2**20:.1f} MB are free"
        return StorageError(f"{folder}: no room for {path.name} ({error.strerror}; {free}); make room, {elsewhere}")
    if error.errno in CLOSED:
        return StorageError(f"{folder}: {path.name} cannot be written there ({error.strerror}); allow it, {elsewhere}")
    return StorageError(f"{path}: cannot be written ({error.strerror or error})")


def _remove_left_behind(path: Path) -> None:
    """Take away unfinished files of `path` that processes of this machine left when they were killed."""
    for part in path.parent.glob(f"{path.name}.{HOST}-*-*.part"):
        try:
            os.kill(int(part.name.rsplit("-", 2)[1]), 0)
        except ProcessLookupError:
            part.unlink(missing_ok=True)
        except OSError:
            continue  # another user's, and alive


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name and rename it, so that a half-written one is never found.

    It is on the disk before it gets its name: else a power cut could leave an empty table, which nothing would notice.
    (A rename that a power cut undoes is harmless, so the folder is not waited for.) What killed processes left of the
    same file is removed. StorageError where it cannot be written.
    """
    content = content if isinstance(content, bytes) else content.encode()
    temporary = path.with_name(f"{path.name}.{HOST}-{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(path)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise storage_error(error, path, len(content)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Take a file away, if it is there; StorageError where it cannot be."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, path) from error


def claim(locks: Sequence[Path], wait: float = 0) -> ExitStack | None:
    """Take all these locks until the result is closed; None where another process keeps one for more than `wait` seconds.

    The operating system frees the locks of a process that is killed. A file system that has none gets one warning: all
    that is lost there is that two runs may do the same work. StorageError where lock files cannot be written.
    """
    held = ExitStack()
    for lock in sorted(locks):
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(lock, timeout=wait, fallback_to_soft=False))
        except Timeout:
            held.close()
            return None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                held.close()
                raise storage_error(error, lock) from error
            text = f"{lock.parent}: this file system has no locks ({error.strerror}); runs at once may repeat work"
            warnings.warn(text, stacklevel=2)
    return held
