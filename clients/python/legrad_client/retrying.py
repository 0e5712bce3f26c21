"""Retries: which failures are retried, after which wait, and until which deadline."""

import time
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, Retrying, wait_random_exponential
from tenacity.retry import retry_if_exception_type

from legrad_client.errors import ClientError, DeadlineError, RefusedError, UnreachableError

_RETRIED_STATUSES = (429, 502, 503, 504)
_LONGEST_WAIT_SECONDS = 30.0


class TryAgainError(ClientError):
    """An attempt failed that may succeed later.

    Attributes:
        reason: the error to report if no attempt succeeds.
        retry_after: seconds to wait as requested by the server, or None.
    """

    def __init__(self, reason: ClientError, retry_after: float | None = None) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.retry_after = retry_after


class Deadline:
    """The time by which a caller needs its answer, ``seconds`` from now."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until the deadline, at least a millisecond."""
        return max(0.001, self._ends - time.monotonic())

    def attempts(self) -> Retrying:
        """Return the attempts of a blocking client."""
        return Retrying(**self._policy())

    def async_attempts(self) -> AsyncRetrying:
        """Return the attempts of an asynchronous client."""
        return AsyncRetrying(**self._policy())

    def _policy(self) -> dict[str, Any]:
        """Return tenacity's arguments.

        The wait is the server's ``Retry-After``, or else random and exponentially growing. No wait
        starts that would end after the deadline.
        """
        growing = wait_random_exponential(multiplier=0.2, max=_LONGEST_WAIT_SECONDS)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.retry_after if isinstance(error, TryAgainError) else None
            # Jitter, so that clients that were refused together do not return together.
            spread = growing(state)
            return spread if asked is None else asked + min(spread, 1.0)

        return {
            "retry": retry_if_exception_type(TryAgainError),
            "wait": wait,
            "stop": lambda state: state.upcoming_sleep >= self.left,
            "reraise": True,
        }


def deadline_error(error: TryAgainError) -> DeadlineError:
    """Return the error for a caller whose deadline leaves no time for another attempt."""
    return DeadlineError(f"No answer came within the deadline; the last error was: {error}")


def connection_error(error: httpx.TransportError) -> TryAgainError:
    """Return the error of an attempt whose connection failed; requests are safe to repeat."""
    return TryAgainError(UnreachableError(f"The server cannot be reached: {error!r}"))


def check(response: httpx.Response) -> None:
    """Raise an error unless the response is a success.

    Raises:
        TryAgainError: a later attempt may succeed.
        RefusedError: no attempt will succeed.
        UnreachableError: the response does not come from this service.
    """
    if response.is_success:
        return
    problem = _problem(response)
    if response.status_code in _RETRIED_STATUSES:
        raise TryAgainError(problem, _retry_after(response))
    raise problem


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
    except (ValueError, KeyError, TypeError, AttributeError):
        # Not problem details: the error page of a load balancer, for example.
        return UnreachableError(f"The server answered with status {response.status_code}.")


def _retry_after(response: httpx.Response) -> float | None:
    given = response.headers.get("retry-after", "")
    if given.isdecimal():
        return float(given)
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    except ValueError:
        return None
