"""The interactive documentation of the API, at `/docs`."""

import base64
import hashlib
import json
import re
from weakref import WeakKeyDictionary

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, Response

from service.http.access import OPEN
from service.http.access_routes import AccessRouter
from service.http.headers import CONTENT_SECURITY_POLICY

STATIC_URL = "/static-offline-docs"

_CONTRACT = "openapi.json"
_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)

# Encoding takes milliseconds of the event loop, and anybody may ask.
_encoded: WeakKeyDictionary[FastAPI, bytes] = WeakKeyDictionary()

router = AccessRouter(needs=OPEN, any_query=True)


@router.get("/docs", include_in_schema=False)
async def documentation(request: Request) -> HTMLResponse:
    """Return Swagger UI, which loads all its files from this server.

    Their addresses are relative, because a proxy may serve this server under a prefix.
    """
    static = STATIC_URL.removeprefix("/")
    page = get_swagger_ui_html(
        openapi_url=_CONTRACT,
        title=request.app.title,
        swagger_js_url=f"{static}/swagger-ui-bundle.js",
        swagger_css_url=f"{static}/swagger-ui.css",
        swagger_favicon_url=f"{static}/favicon.png",
    )
    page.headers[CONTENT_SECURITY_POLICY] = _policy(bytes(page.body).decode())
    return page


@router.get(f"/{_CONTRACT}", include_in_schema=False)
async def contract(request: Request) -> Response:
    """Return the OpenAPI document, with the address of this server.

    Without a known prefix the address is relative to the document (OpenAPI 3.1, "Server Object").
    """
    app: FastAPI = request.app
    if app not in _encoded:
        document = {name: part for name, part in app.openapi().items() if name != "servers"}
        _encoded[app] = json.dumps(document, ensure_ascii=False).encode().removesuffix(b"}")
    server = request.scope.get("root_path") or "."
    servers = json.dumps([{"url": server}], ensure_ascii=False).encode()
    content = b'%s, "servers": %s}' % (_encoded[app], servers)
    return Response(content, media_type="application/json")


def _policy(html: str) -> str:
    """Return a policy that allows this server's files and the page's own inline scripts."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in _INLINE_SCRIPT.findall(html)
    )
    return (
        f"default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
