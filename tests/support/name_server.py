"""A name server that gives every name the same addresses, which a test may change."""

import socket
import struct
import threading
from typing import Self

_TYPE_A = 1
_ANSWER = 0x8580  # authoritative, recursion available
_SECONDS_TO_LIVE = 1


class NameServer:
    """A UDP name server on a free port of ``127.0.0.1``, as a context manager."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # An empty datagram ends the thread: closing the socket would not wake it.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
            caller.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, caller = self._socket.recvfrom(4096)
            if not query:
                return
            self._socket.sendto(self._answer(query), caller)

    def _answer(self, query: bytes) -> bytes:
        """Return the answer to a query with one question (RFC 1035, section 4)."""
        end = query.index(b"\0", 12) + 5
        question = query[12:end]
        (kind,) = struct.unpack("!H", question[-4:-2])
        found = self.addresses if kind == _TYPE_A else []
        header = query[:2] + struct.pack("!5H", _ANSWER, 1, len(found), 0, 0)
        # Each record points to the name in the question.
        record = b"\xc0\x0c" + struct.pack("!HHIH", _TYPE_A, 1, _SECONDS_TO_LIVE, 4)
        return header + question + b"".join(record + socket.inet_aton(each) for each in found)
