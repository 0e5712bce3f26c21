"""Service behind proxies: the client, scheme and prefix that they say; paths with a last slash."""

from collections.abc import Sequence
from string import punctuation
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse
from starlette.routing import Match, Router
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.errors import WrongPathError
from service.http.access_routes import ENCODED_SLASH, with_encoded_slashes
from service.settings.browser_urls import read_prefix
from service.settings.ip_addresses import UNIX, trusted_networks


class ForwardedRequests:
    """Outermost ASGI middleware: takes a request as the client sent it to the outermost proxy.

    The prefix becomes ``root_path`` and the begin of ``path``, as ASGI defines them.
    """

    def __init__(self, app: ASGIApp, proxies: Sequence[str], root_path: str) -> None:
        """Wrap an application.

        Args:
            app: the application.
            proxies: addresses and networks whose headers are trusted.
            root_path: the path prefix; empty takes it from the headers of these proxies.
        """
        self._app = app
        # Decides the client and the scheme; uvicorn's own instance would not know Unix sockets.
        self._by_proxy = ProxyHeadersMiddleware(app, trusted_networks(tuple(proxies)))  # type: ignore[arg-type]
        self._trusts_any = bool(proxies)
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; pass other scopes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope.get("client") is None and _has_no_port(scope):
            # The client of a Unix socket has no address; settings and log lines have this name.
            scope["client"] = (UNIX, 0)
        trusted = self._trusts_any and _host(scope) in self._by_proxy.trusted_hosts
        if self._root_path:
            # A proxy may have removed the prefix, or not.
            _begin_with(scope, self._root_path, removed=not _is_below(scope, self._root_path))
        elif trusted:
            _begin_with(scope, _forwarded_prefix(scope), removed=True)
        if trusted:
            await self._by_proxy(scope, receive, send)  # type: ignore[arg-type]
        else:
            await self._app(scope, receive, send)


def _has_no_port(scope: Scope) -> bool:
    server = scope.get("server")
    return server is not None and server[1] is None


def _host(scope: Scope) -> str | None:
    client = scope.get("client")
    return client[0] if client else None


def _is_below(scope: Scope, prefix: str) -> bool:
    path: str = scope["path"]
    return path == prefix or path.startswith(f"{prefix}/")


def _begin_with(scope: Scope, prefix: str, *, removed: bool) -> None:
    if removed:
        scope["path"] = prefix + scope["path"]
        if scope.get("raw_path"):
            scope["raw_path"] = prefix.encode() + scope["raw_path"]
    scope["root_path"] = prefix


def _forwarded_prefix(scope: Scope) -> str:
    """Return the prefix that trusted proxies removed, the outermost part first; empty for none.

    A value that is no path is no prefix: a proxy that does not set this header passes on whatever
    its client sends.
    """
    given = ",".join(Headers(scope=scope).getlist("x-forwarded-prefix"))
    try:
        return "".join(read_prefix(part.strip()) for part in given.split(","))
    except ValueError:
        return ""


def handle_last_slashes(router: Router) -> None:
    """Let a router name the right path where the last slash is too much.

    The bare prefix is redirected to the page. Other paths are not: clients drop the body or the key
    of a redirected request, or take its answer for an error.
    """
    not_found = router.default

    async def named_or_not_found(scope: Scope, receive: Receive, send: Send) -> None:
        path: str = with_encoded_slashes(scope)["path"]
        root: str = scope.get("root_path", "")
        if scope["type"] == "http" and root and path == root:
            # The page's links are relative to the prefix with its slash.
            await RedirectResponse(_page_of(path, scope["query_string"]))(scope, receive, send)
            return
        bare = path.rstrip("/")
        if scope["type"] == "http" and bare not in (path, root) and _exists(router, scope, bare):
            raise WrongPathError(
                f"There is nothing at this path, but at {_readable(bare.removeprefix(root))}: "
                "leave out the slash at the end."
            )
        await not_found(scope, receive, send)

    router.redirect_slashes = False
    router.default = named_or_not_found


def _exists(router: Router, scope: Scope, path: str) -> bool:
    changed = {**scope, "path": path, "raw_path": b""}
    return any(route.matches(changed)[0] is not Match.NONE for route in router.routes)


def _readable(path: str) -> str:
    return quote(path.replace(ENCODED_SLASH, "%2F"), safe="/%")


def _page_of(prefix: str, query: bytes) -> str:
    """Return the relative address of a prefix with a slash at its end."""
    name = quote(prefix.rpartition("/")[2], safe="")
    # The same bytes, whatever they are.
    return f"./{name}/?{quote(query, safe=punctuation)}" if query else f"./{name}/"
