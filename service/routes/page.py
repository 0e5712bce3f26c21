"""The web page, at `/`."""

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from service.http.access import OPEN
from service.http.access_routes import AccessRouter
from service.http.headers import CONTENT_SECURITY_POLICY
from service.web.files import INDEX, POLICY, page_files

router = AccessRouter(needs=OPEN, any_query=True, include_in_schema=False)


@router.get("/")
async def page(request: Request) -> Response:
    """Return the page."""
    return _answer(request, INDEX)


@router.get("/web/{path:path}")
async def page_file(request: Request, path: str) -> Response:
    """Return a file of the page."""
    if path not in page_files():
        raise HTTPException(404)
    return _answer(request, path)


def _answer(request: Request, path: str) -> Response:
    found = page_files()[path]
    headers = {
        "ETag": found.etag,
        # Cached, but checked at each use: old files must not run against a new server.
        "Cache-Control": "no-cache",
        CONTENT_SECURITY_POLICY: POLICY,
    }
    given = request.headers.get("if-none-match", "")
    known = {tag.strip().removeprefix("W/") for tag in given.split(",")}
    if found.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(found.content, media_type=found.media_type, headers=headers)
