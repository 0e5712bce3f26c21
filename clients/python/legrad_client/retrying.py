"""When a client asks again: a busy or a starting server, a connection that broke, a deadline."""

import time
from email.utils import parsedate_to_datetime

import httpx
from pydantic import ValidationError
from tenacity import AsyncRetrying, RetryCallState, Retrying, wait_random_exponential
from tenacity.retry import retry_if_exception_type

from legrad_client.errors import ClientError, DeadlineError, RefusedError, UnreachableError

_AGAIN = (429, 502, 503, 504)
_LONGEST_WAIT_SECONDS = 30.0


class TryAgainError(ClientError):
    """An attempt that may succeed later; ``retry_after`` in seconds where the server says so."""

    def __init__(self, reason: ClientError, retry_after: float | None = None) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.retry_after = retry_after


class Deadline:
    """The instant by which a caller wants its answer."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until then, at least a millisecond."""
        return max(0.001, self._ends - time.monotonic())

    def policy(self) -> dict[str, object]:
        """When to try again, for tenacity: as the server says, else after growing random waits.

        A wait that would outlast the deadline is not begun.
        """
        growing = wait_random_exponential(multiplier=0.2, max=_LONGEST_WAIT_SECONDS)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.retry_after if isinstance(error, TryAgainError) else None
            # A little random time more, so that those who were refused together do not come
            # back together.
            spread = growing(state)
            return spread if asked is None else asked + min(spread, 1.0)

        return {
            "retry": retry_if_exception_type(TryAgainError),
            "wait": wait,
            "stop": lambda state: state.upcoming_sleep >= self.left,
            "reraise": True,
        }

    def attempts(self) -> Retrying:
        """Attempts of a client that blocks."""
        return Retrying(**self.policy())  # type: ignore[arg-type]

    def async_attempts(self) -> AsyncRetrying:
        """Attempts of a client that awaits."""
        return AsyncRetrying(**self.policy())  # type: ignore[arg-type]


def given_up(error: TryAgainError) -> ClientError:
    """What the caller is told once the deadline leaves no time for another attempt."""
    return DeadlineError(f"There was no answer within the deadline; the last was: {error}")


def check(response: httpx.Response) -> httpx.Response:
    """Lets a good answer pass.

    Raises:
        TryAgainError: it may succeed later.
        RefusedError: it will not.
        UnreachableError: the answer is not one of this service.
    """
    if response.is_success:
        return response
    problem = _problem(response)
    if response.status_code in _AGAIN:
        raise TryAgainError(problem, _retry_after(response))
    raise problem


def broken(error: httpx.TransportError) -> TryAgainError:
    """An attempt whose connection failed; asking twice does no harm."""
    return TryAgainError(UnreachableError(f"The server cannot be reached: {error!r}"))


def _problem(response: httpx.Response) -> ClientError:
    try:
        body = response.json()
        return RefusedError(
            response.status_code,
            body["error"],
            body["detail"],
            body.get("field"),
            body["request_id"],
        )
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError):
        # A balancer's own page.
        return UnreachableError(f"The server answered with status {response.status_code}.")


def _retry_after(response: httpx.Response) -> float | None:
    given = response.headers.get("retry-after", "")
    if given.isdecimal():
        return float(given)
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    except ValueError:
        return None
