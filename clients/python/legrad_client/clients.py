"""The clients: one that blocks, one that is awaited, with the same methods."""

from collections.abc import Mapping, Sequence
from typing import Any, Self, Unpack

import httpx
from pydantic import ValidationError

from legrad_client.answers import Explanation, ModelDescription, explanations_of
from legrad_client.errors import UnreachableError
from legrad_client.questions import ImageLike, Options, body_of
from legrad_client.retrying import Deadline, TryAgainError, broken, check, given_up

DEADLINE_SECONDS = 60.0
_CONNECT_SECONDS = 5.0


class _Base:
    """What both clients share: everything but the sending."""

    def __init__(self, url: str = "http://localhost:8000", *, api_key: str | None = None) -> None:
        if httpx.URL(url).scheme not in ("http", "https"):
            raise ValueError(f"Write the server's address as http://localhost:8000, not {url!r}.")
        headers = {"Accept": "application/json"}
        if api_key is not None:
            headers["Authorization"] = f"Bearer {api_key}"
        self._settings: dict[str, Any] = {"base_url": url, "headers": headers}

    @staticmethod
    def _explain_request(
        images: Sequence[ImageLike],
        prompts: Sequence[str] | None,
        targets: Sequence[Mapping[str, Any]] | None,
        model: str | None,
        options: Options,
    ) -> dict[str, Any]:
        return {
            "method": "POST",
            "url": "/explain",
            "json": body_of(images, prompts, targets, model, options),
        }

    @staticmethod
    def _attempt(deadline: Deadline) -> dict[str, Any]:
        """What one attempt tells the server and itself of the time that is left."""
        left = deadline.left
        return {
            "headers": {"X-Request-Timeout-Ms": str(max(1, int(1000 * left)))},
            "timeout": httpx.Timeout(left, connect=min(left, _CONNECT_SECONDS)),
        }

    @staticmethod
    def _explanations(response: httpx.Response) -> list[Explanation]:
        try:
            return explanations_of(response.json())
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise UnreachableError("The answer is not one of this service.") from error

    @staticmethod
    def _models(response: httpx.Response) -> list[ModelDescription]:
        try:
            models = response.json()["models"]
            return [ModelDescription.model_validate(each) for each in models]
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise UnreachableError("The answer is not one of this service.") from error


class LegradClient(_Base):
    """Asks a server where its models looked. Thread-safe; connections are kept and used again.

    A busy (429), starting (503) or unreachable server is asked again, when it says so or after a
    growing time, until the deadline.
    """

    def __init__(self, url: str = "http://localhost:8000", *, api_key: str | None = None) -> None:
        """Makes a client; nothing is sent yet.

        Args:
            url: address of the server or of the balancer in front of it.
            api_key: the key that the server asks for, if it does.

        Raises:
            ValueError: the address does not begin with http:// or https://.
        """
        super().__init__(url, api_key=api_key)
        self._client = httpx.Client(**self._settings)

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes its connections."""
        self.close()

    def close(self) -> None:
        """Closes the kept connections."""
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
        """Explains one picture; see :meth:`explain_all`."""
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
        """Explains several pictures in one request.

        Args:
            images: paths, addresses, bytes, Pillow images or arrays; a server allows so many.
            prompts: what to look for, in words.
            targets: other targets as in the contract, such as
                ``{"type": "class", "label": "tabby"}``.
            model: id of a model; None for the server's default one.
            deadline: seconds within which the answer is wanted, all attempts together.
            options: see :class:`~legrad_client.questions.Options`.

        Raises:
            RefusedError: the server does not answer this request, and says why.
            DeadlineError: no answer came in time.
            UnreachableError: what answers is not this service.
            TypeError, ValueError, OSError: an image or option is not usable.
        """
        request = self._explain_request(images, prompts, targets, model, options)
        return self._explanations(self._send(request, deadline))

    def models(self, *, deadline: float = DEADLINE_SECONDS) -> list[ModelDescription]:
        """The served models, the default one first. Raises as :meth:`explain_all` does."""
        return self._models(self._send({"method": "GET", "url": "/models"}, deadline))

    def _send(self, request: Mapping[str, Any], seconds: float) -> httpx.Response:
        deadline = Deadline(seconds)
        try:
            for attempt in deadline.attempts():
                with attempt:
                    try:
                        response = self._client.request(**request, **self._attempt(deadline))
                    except httpx.TransportError as error:
                        raise broken(error) from error
                    return check(response)
        except TryAgainError as error:
            raise given_up(error) from error.reason
        raise AssertionError("attempts end with an answer or an error")


class AsyncLegradClient(_Base):
    """The same as :class:`LegradClient`, to be awaited."""

    def __init__(self, url: str = "http://localhost:8000", *, api_key: str | None = None) -> None:
        """See :class:`LegradClient`."""
        super().__init__(url, api_key=api_key)
        self._client = httpx.AsyncClient(**self._settings)

    async def __aenter__(self) -> Self:
        """The client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes its connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the kept connections."""
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
        return self._explanations(await self._send(request, deadline))

    async def models(self, *, deadline: float = DEADLINE_SECONDS) -> list[ModelDescription]:
        """See :meth:`LegradClient.models`."""
        return self._models(await self._send({"method": "GET", "url": "/models"}, deadline))

    async def _send(self, request: Mapping[str, Any], seconds: float) -> httpx.Response:
        deadline = Deadline(seconds)
        try:
            async for attempt in deadline.async_attempts():
                with attempt:
                    try:
                        response = await self._client.request(**request, **self._attempt(deadline))
                    except httpx.TransportError as error:
                        raise broken(error) from error
                    return check(response)
        except TryAgainError as error:
            raise given_up(error) from error.reason
        raise AssertionError("attempts end with an answer or an error")
