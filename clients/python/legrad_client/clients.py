"""A blocking and an asynchronous client with the same methods."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar, Unpack
from urllib.parse import quote

import httpx

from legrad_client.answers import (
    Explanation,
    ModelClass,
    ModelDescription,
    parse_classes,
    parse_explanations,
    parse_models,
)
from legrad_client.errors import UnreachableError
from legrad_client.multipart import content_of
from legrad_client.requests import ImageLike, Options, explain_body
from legrad_client.retrying import (
    Deadline,
    TryAgainError,
    check,
    connection_error,
    deadline_error,
)

DEADLINE_SECONDS = 60.0
# A server without multipart answers sends JSON.
_MULTIPART = "multipart/form-data, application/json;q=0.5"
_CONNECT_SECONDS = 5.0

_Parsed = TypeVar("_Parsed")


class _Base:
    """Everything but the sending of requests, which both clients share."""

    def __init__(
        self,
        url: str = "http://localhost:8000",
        *,
        api_key: str | None = None,
        multipart: bool = False,
    ) -> None:
        if httpx.URL(url).scheme not in ("http", "https"):
            raise ValueError(f"Write the server's address like http://localhost:8000, not {url!r}.")
        headers = {"Accept": "application/json"}
        if api_key is not None:
            headers["Authorization"] = f"Bearer {api_key}"
        self._settings: dict[str, Any] = {"base_url": url, "headers": headers}
        self._explain_headers = {"Accept": _MULTIPART} if multipart else {}

    def _explain_request(
        self,
        images: Sequence[ImageLike],
        prompts: Sequence[str] | None,
        targets: Sequence[Mapping[str, Any]] | None,
        model: str | None,
        options: Options,
    ) -> dict[str, Any]:
        return {
            "method": "POST",
            "url": "/explain",
            "json": explain_body(images, prompts, targets, model, options),
            "headers": self._explain_headers,
        }

    @staticmethod
    def _classes_request(model: str, search: str, limit: int, offset: int) -> dict[str, Any]:
        return {
            "method": "GET",
            "url": f"/models/{quote(model, safe='')}/classes",
            "params": {"search": search, "limit": limit, "offset": offset},
        }

    @staticmethod
    def _attempt(request: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
        """Return the arguments of one attempt, with the remaining time for the server and httpx."""
        left = deadline.left
        timeout = {"X-Request-Timeout-Ms": str(max(1, int(1000 * left)))}
        return {
            **request,
            "headers": {**request.get("headers", {}), **timeout},
            "timeout": httpx.Timeout(left, connect=min(left, _CONNECT_SECONDS)),
        }

    @staticmethod
    def _parsed(parse: Callable[[Any], _Parsed], response: httpx.Response) -> _Parsed:
        try:
            return parse(content_of(response))
        except (LookupError, TypeError, ValueError, OSError) as error:
            raise UnreachableError("The answer is not one of legrad-service.") from error


class LegradClient(_Base):
    """Client that blocks. It is thread-safe and reuses its connections.

    Requests to a busy (429), starting (503) or unreachable server are retried until the deadline,
    after the server's ``Retry-After`` or a growing random wait.
    """

    def __init__(
        self,
        url: str = "http://localhost:8000",
        *,
        api_key: str | None = None,
        multipart: bool = False,
    ) -> None:
        """Create a client without sending anything.

        Args:
            url: address of the server or of the load balancer in front of it.
            api_key: key for a server that requires one.
            multipart: whether maps and overlays are sent as raw bytes instead of base64, which are
                a quarter fewer. The results are the same.

        Raises:
            ValueError: the address does not start with http:// or https://.
        """
        super().__init__(url, api_key=api_key, multipart=multipart)
        self._client = httpx.Client(**self._settings)

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def explain(
        self,
        image: ImageLike,
        prompts: Sequence[str] | None = None,
        *,
        targets: Sequence[Mapping[str, Any]] | None = None,
        model: str | None = None,
        deadline: float = DEADLINE_SECONDS,
        **options: Unpack[Options],
    ) -> Explanation:
        """Explain one picture; see :meth:`explain_all`."""
        (explanation,) = self.explain_all(
            [image], prompts, targets=targets, model=model, deadline=deadline, **options
        )
        return explanation

    def explain_all(
        self,
        images: Sequence[ImageLike],
        prompts: Sequence[str] | None = None,
        *,
        targets: Sequence[Mapping[str, Any]] | None = None,
        model: str | None = None,
        deadline: float = DEADLINE_SECONDS,
        **options: Unpack[Options],
    ) -> list[Explanation]:
        """Explain several pictures in one request.

        Args:
            images: paths, addresses, bytes, Pillow images or arrays; the server limits their
                number.
            prompts: texts to look for.
            targets: other targets of the contract, such as
                ``{"type": "class", "label": "tabby"}``. An ``image`` in them may be any
                :data:`ImageLike` but a string, which is base64; an ``embedding`` may be an array.
            model: id of a model; None for the server's default.
            deadline: seconds until the answer is needed, over all attempts.
            options: see :class:`~legrad_client.requests.Options`.

        Raises:
            RefusedError: the server refused the request and named the reason.
            DeadlineError: no answer came in time.
            UnreachableError: the answer does not come from this service.
            TypeError, ValueError, OSError: an image or an option is invalid.
        """
        request = self._explain_request(images, prompts, targets, model, options)
        return self._parsed(parse_explanations, self._send(request, deadline))

    def models(self, *, deadline: float = DEADLINE_SECONDS) -> list[ModelDescription]:
        """Return the served models, the default first. Raises as :meth:`explain_all` does."""
        response = self._send({"method": "GET", "url": "/models"}, deadline)
        return self._parsed(parse_models, response)

    def classes(
        self,
        model: str,
        search: str = "",
        *,
        limit: int = 100,
        offset: int = 0,
        deadline: float = DEADLINE_SECONDS,
    ) -> list[ModelClass]:
        """Return classes of a model's classifier, for targets of type ``class``.

        Args:
            model: id of the model.
            search: words that a label must contain, or the index of a class; empty for all.
            limit: largest number of classes to return.
            offset: number of matching classes to skip.
            deadline: see :meth:`explain_all`, which raises the same errors.
        """
        response = self._send(self._classes_request(model, search, limit, offset), deadline)
        return self._parsed(parse_classes, response)

    def _send(self, request: Mapping[str, Any], seconds: float) -> httpx.Response:
        deadline = Deadline(seconds)
        try:
            for attempt in deadline.attempts():
                with attempt:
                    try:
                        response = self._client.request(**self._attempt(request, deadline))
                    except httpx.TransportError as error:
                        raise connection_error(error) from error
                    check(response)
                    return response
        except TryAgainError as error:
            raise deadline_error(error) from error.reason
        raise AssertionError("attempts end with an answer or an error")


class AsyncLegradClient(_Base):
    """Asynchronous client with the methods of :class:`LegradClient`."""

    def __init__(
        self,
        url: str = "http://localhost:8000",
        *,
        api_key: str | None = None,
        multipart: bool = False,
    ) -> None:
        """See :class:`LegradClient`."""
        super().__init__(url, api_key=api_key, multipart=multipart)
        self._client = httpx.AsyncClient(**self._settings)

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def explain(
        self,
        image: ImageLike,
        prompts: Sequence[str] | None = None,
        *,
        targets: Sequence[Mapping[str, Any]] | None = None,
        model: str | None = None,
        deadline: float = DEADLINE_SECONDS,
        **options: Unpack[Options],
    ) -> Explanation:
        """See :meth:`LegradClient.explain`."""
        (explanation,) = await self.explain_all(
            [image], prompts, targets=targets, model=model, deadline=deadline, **options
        )
        return explanation

    async def explain_all(
        self,
        images: Sequence[ImageLike],
        prompts: Sequence[str] | None = None,
        *,
        targets: Sequence[Mapping[str, Any]] | None = None,
        model: str | None = None,
        deadline: float = DEADLINE_SECONDS,
        **options: Unpack[Options],
    ) -> list[Explanation]:
        """See :meth:`LegradClient.explain_all`."""
        request = self._explain_request(images, prompts, targets, model, options)
        return self._parsed(parse_explanations, await self._send(request, deadline))

    async def models(self, *, deadline: float = DEADLINE_SECONDS) -> list[ModelDescription]:
        """See :meth:`LegradClient.models`."""
        response = await self._send({"method": "GET", "url": "/models"}, deadline)
        return self._parsed(parse_models, response)

    async def classes(
        self,
        model: str,
        search: str = "",
        *,
        limit: int = 100,
        offset: int = 0,
        deadline: float = DEADLINE_SECONDS,
    ) -> list[ModelClass]:
        """See :meth:`LegradClient.classes`."""
        response = await self._send(self._classes_request(model, search, limit, offset), deadline)
        return self._parsed(parse_classes, response)

    async def _send(self, request: Mapping[str, Any], seconds: float) -> httpx.Response:
        deadline = Deadline(seconds)
        try:
            async for attempt in deadline.async_attempts():
                with attempt:
                    try:
                        response = await self._client.request(**self._attempt(request, deadline))
                    except httpx.TransportError as error:
                        raise connection_error(error) from error
                    check(response)
                    return response
        except TryAgainError as error:
            raise deadline_error(error) from error.reason
        raise AssertionError("attempts end with an answer or an error")
