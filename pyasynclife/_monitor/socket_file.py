"""The Unix socket that a process serves on: private, and nothing else overwritten."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import sys
from types import TracebackType
from typing import Self

BACKLOG = 16
LONGEST = 107 if sys.platform == "linux" else 103  # bytes of a socket's path


class SocketFile:
    """A listening socket and its file, of mode 0600; the block removes the file.

    Args:
        path: Where the file is made. One that a dead process has left is replaced.

    Raises:
        OSError: A living process serves there, or the path is something else, or too
            long.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.setblocking(False)
            # On Linux the file gets the mode that the socket has at bind(): nobody else
            # can connect in between. Elsewhere chmod() alone decides.
            os.fchmod(self.socket.fileno(), 0o600)
            self._bind()
            os.chmod(path, 0o600)
            self._own = _identity(path)
            self.socket.listen(BACKLOG)
        except BaseException:
            self.socket.close()
            raise

    def _bind(self) -> None:
        try:
            self.socket.bind(self.path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise with_path(error, self.path) from None
            _remove_dead(self.path)
            self.socket.bind(self.path)

    def __enter__(self) -> Self:
        """Return the socket file."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the socket, and remove its file if it is still the same."""
        self.socket.close()
        try:
            if _identity(self.path) == self._own:
                os.unlink(self.path)
        except OSError:
            pass  # somebody has removed it


def with_path(error: OSError, path: str) -> OSError:
    """Return a socket's error with its path; one that is too long gets no errno."""
    size = len(os.fsencode(path))
    if error.errno is None and size > LONGEST:
        message = (
            f"a socket's path has at most {LONGEST} bytes, got {size}: use a shorter "
            "one, as in $XDG_RUNTIME_DIR or relative to the current directory"
        )
        return OSError(errno.ENAMETOOLONG, message, path)
    return OSError(error.errno, error.strerror or str(error), path)


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _remove_dead(path: str) -> None:
    """Remove the socket file of a process that has ended; otherwise raise OSError."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        message = "this is not a socket: it is left alone, serve at another path"
        raise FileExistsError(errno.EEXIST, message, path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass  # alive, and its backlog is full
    message = "a living process serves here: serve at another path"
    raise OSError(errno.EADDRINUSE, message, path)


def peer_is_same_user(peer: socket.socket) -> bool:
    """Tell whether the process at the other end runs as the same user.

    Where the system does not say (there is no SO_PEERCRED), the mode of the file alone
    keeps others out.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, option, size))
    return bool(uid == os.geteuid())
