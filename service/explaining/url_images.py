"""Fetches pictures by URL, from servers that may be hostile.

For each redirect and for the first request, the host is looked up once and refused unless all its
IP addresses are allowed. The connection goes to one of these addresses, while TLS and the Host
header use the name. Only the bytes of a picture are returned. Requests have no cookies and no
credentials, and use no proxies.
"""

import asyncio
import ssl
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import httpcore

from service.errors import (
    InvalidUrlError,
    ServiceError,
    UrlNotAllowedError,
    UrlRefusedError,
    UrlTimeoutError,
    UrlTooLargeError,
    UrlUnreachableError,
)
from service.explaining.fair_threads import FairThreads
from service.explaining.gate import Gate
from service.explaining.network import Network
from service.settings.url_policy import ImageUrl
from service.settings.values import UrlPolicy
from service.telemetry.metrics import Metrics

_REDIRECTS = {301, 302, 303, 307, 308}
_MOST_HEAD_BYTES = 32_768
# Parsing blocks the event loop, so each read is small. Before the body it is smallest: these bytes
# may be a hundred informational (1xx) responses.
_HEAD_READ_BYTES = 2048
_BODY_READ_BYTES = 16_384
# Honest servers send pieces of a packet's size; a picture in single bytes wastes CPU time.
_FREE_PIECES = 1000
_LEAST_MEAN_PIECE = 256
_MOST_ADDRESSES = 4
# One owner alone gets half of the threads.
_LEAST_LOOKUPS = 2
_HEADERS = [
    (b"Accept", b"image/*"),
    (b"Accept-Encoding", b"identity"),
    (b"Connection", b"close"),
    (b"User-Agent", b"legrad-service"),
]


class UrlImages:
    """Fetches the pictures of requests. Used on the event loop only."""

    def __init__(self, policy: UrlPolicy, metrics: Metrics, network: Network) -> None:
        self._rules = policy.rules
        self._timeout = policy.timeout_seconds
        self._max_redirects = policy.max_redirects
        self._max_bytes = policy.max_bytes
        self._metrics = metrics
        self._network = network
        # Or one caller's slow server would hold all places, for the whole timeout of each.
        self._gate = Gate(policy.max_fetches, leave_room=True)
        # A pool of its own: look-ups that hang must not occupy threads that other tasks need. They
        # keep their threads when their fetches have given up, so some are left to other owners.
        self._lookups = FairThreads(
            "url-lookup", max(_LEAST_LOOKUPS, policy.max_fetches), leave_room=True
        )
        # Reading the certificates of authorities takes 20 ms: only servers that fetch pay for it.
        self._tls = (
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if policy.rules.allow_nothing
            else ssl.create_default_context()
        )

    def close(self) -> None:
        """Stop the look-ups. The caller has awaited every fetch."""
        self._lookups.close()

    async def fetch(
        self, owner: Hashable, images: Sequence[bytes | ImageUrl], fields: Sequence[str]
    ) -> list[bytes]:
        """Fetch the pictures given by URL, each URL once.

        Args:
            owner: owner of the request; owners take turns.
            images: encoded pictures or URLs.
            fields: name of each picture's field in the request, for errors.

        Returns:
            All encoded pictures, in order.

        Raises:
            ServiceError: a picture could not be fetched; the other fetches are cancelled.
        """
        wanted: dict[ImageUrl, str] = {}
        for image, field in zip(images, fields, strict=True):
            if isinstance(image, ImageUrl):
                wanted.setdefault(image, field)
        if not wanted:
            return [image for image in images if isinstance(image, bytes)]
        allowance = _Allowance(self._max_bytes)
        try:
            async with asyncio.TaskGroup() as group:
                fetches = {
                    url: group.create_task(self._fetch_one(owner, url, f"{field}.url", allowance))
                    for url, field in wanted.items()
                }
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [
            fetches[image].result() if isinstance(image, ImageUrl) else image for image in images
        ]

    async def _fetch_one(
        self, owner: Hashable, url: ImageUrl, field: str, allowance: "_Allowance"
    ) -> bytes:
        async with self._gate.passed(owner):
            began = time.perf_counter()
            outcome = "cancelled"
            try:
                async with asyncio.timeout(self._timeout):
                    picture = await self._follow(owner, url, allowance)
                outcome = "fetched"
                return picture
            except TimeoutError as error:
                outcome = UrlTimeoutError.code
                raise UrlTimeoutError(
                    f"The picture did not arrive within {self._timeout:g} s.", field=field
                ) from error
            except ServiceError as error:
                outcome = error.code
                error.field = field
                raise
            finally:
                self._metrics.url_fetches.labels(outcome).inc()
                self._metrics.url_fetch.observe(time.perf_counter() - began)

    async def _follow(self, owner: Hashable, url: ImageUrl, allowance: "_Allowance") -> bytes:
        for redirects in range(self._max_redirects + 1):
            try:
                answer = await self._get(owner, url, allowance)
            except UrlNotAllowedError as error:
                if redirects == 0:
                    raise
                raise _redirect_not_allowed() from error
            if isinstance(answer, bytes):
                return answer
            url = self._redirected(url, answer.location)
        raise UrlUnreachableError(
            f"The picture's server redirects more than {self._max_redirects} times."
        )

    def _redirected(self, url: ImageUrl, location: str) -> ImageUrl:
        try:
            return self._rules.follow(url, location)
        except InvalidUrlError as error:
            raise UrlUnreachableError(
                "The picture's server redirects to an invalid URL."
            ) from error
        except UrlNotAllowedError as error:
            raise _redirect_not_allowed() from error

    async def _get(
        self, owner: Hashable, url: ImageUrl, allowance: "_Allowance"
    ) -> "bytes | _Redirect":
        addresses = await self._allowed_addresses(owner, url)
        try:
            stream = _Stream(await self._connect(url, addresses))
            try:
                return await _ask(stream, url, allowance)
            finally:
                await stream.aclose()
        except (httpcore.NetworkError, httpcore.TimeoutException, OSError) as error:
            raise UrlUnreachableError(
                "The connection to the picture's server failed or was closed."
            ) from error
        except httpcore.ProtocolError as error:
            raise UrlUnreachableError("The picture's server does not answer in HTTP.") from error

    async def _allowed_addresses(self, owner: Hashable, url: ImageUrl) -> list[str]:
        if url.address is not None:
            return [url.host]
        try:
            found = await self._lookups.run(owner, self._network.addresses, url.host)
        except OSError as error:
            raise UrlUnreachableError("The URL's host could not be looked up.") from error
        # The same error for a name that does not exist and for one of the internal network: callers
        # must not learn which internal names exist.
        if not found or not all(self._rules.may_connect(url, each) for each in found):
            raise UrlNotAllowedError(f"{url.host!r} has no public address.")
        return list(dict.fromkeys(found))[:_MOST_ADDRESSES]

    async def _connect(
        self, url: ImageUrl, addresses: Sequence[str]
    ) -> httpcore.AsyncNetworkStream:
        *others, last = addresses
        for address in others:
            try:
                return await self._connect_to(url, address, self._timeout / len(addresses))
            except (httpcore.NetworkError, httpcore.TimeoutException):
                # The host may still answer at its next address.
                continue
        return await self._connect_to(url, last, None)

    async def _connect_to(
        self, url: ImageUrl, address: str, timeout: float | None
    ) -> httpcore.AsyncNetworkStream:
        stream = await self._network.connect(address, url.port, timeout)
        if url.parsed.scheme == "http":
            return stream
        try:
            return await stream.start_tls(self._tls, url.host, timeout)
        except BaseException:
            await stream.aclose()
            raise


@dataclass(frozen=True, slots=True)
class _Redirect:
    location: str


def _redirect_not_allowed() -> UrlNotAllowedError:
    # Without the target, which may contain secrets of the picture's server.
    return UrlNotAllowedError(
        "The picture's server redirects to a URL that this server does not fetch from."
    )


class _Allowance:
    """The number of bytes that the pictures of one request may still have."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most

    def take(self, count: int) -> None:
        """Subtract a number of bytes.

        Raises:
            UrlTooLargeError: fewer are left.
        """
        self.check(count)
        self._left -= count

    def check(self, count: int) -> None:
        """Refuse as :meth:`take` would, without subtracting."""
        if count > self._left:
            raise UrlTooLargeError(
                f"The pictures fetched for this request have more than {self._most} bytes."
            )


class _Stream(httpcore.AsyncNetworkStream):
    """A connection with small reads, and with a limit on the bytes before the response's body."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._head_left = _MOST_HEAD_BYTES
        self.in_head = True

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        most = _HEAD_READ_BYTES if self.in_head else _BODY_READ_BYTES
        data = await self._stream.read(min(max_bytes, most), timeout)
        if self.in_head:
            self._head_left -= len(data)
            if self._head_left < 0:
                raise httpcore.RemoteProtocolError("The head of the answer is too large.")
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _ask(stream: _Stream, url: ImageUrl, allowance: _Allowance) -> bytes | _Redirect:
    """Request the picture on an open connection; leave it open."""
    request = httpcore.Request(
        "GET",
        httpcore.URL(
            scheme=url.parsed.raw_scheme,
            host=url.host,
            port=url.port,
            target=url.parsed.raw_path,
        ),
        headers=[(b"Host", url.parsed.netloc), *_HEADERS],
    )
    connection = httpcore.AsyncHTTP11Connection(request.url.origin, stream)
    response = await connection.handle_async_request(request)
    stream.in_head = False
    headers = {name.lower(): value for name, value in response.headers}
    if response.status in _REDIRECTS:
        return _Redirect(headers.get(b"location", b"").decode("utf-8", "replace"))
    if response.status != 200:
        message = f"The picture's server answered with status {response.status}."
        if 400 <= response.status < 500:
            raise UrlRefusedError(message)
        raise UrlUnreachableError(message)
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"", b"identity"):
        raise UrlUnreachableError("The picture's server compressed its answer, which is refused.")
    length = headers.get(b"content-length", b"")
    if length:
        allowance.check(int(length))
    picture = bytearray()
    pieces = 0
    async for piece in response.aiter_stream():
        allowance.take(len(piece))
        picture += piece
        pieces += 1
        if len(picture) < (pieces - _FREE_PIECES) * _LEAST_MEAN_PIECE:
            raise UrlUnreachableError("The picture's server sends the picture in too many pieces.")
        # Pieces that have already arrived must not block the event loop all at once.
        await asyncio.sleep(0)
    return bytes(picture)
