"""The page at `/`, its files below `/page/`, and the API pages `/docs` and `/redoc`. All come from the folder `page`;
nothing in them asks another host. Knows nothing of what the page shows."""

import gzip
import hashlib
from asyncio import to_thread
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from service import DISTRIBUTION
from service.http.compression import best_coding
from service.http.json_route import json_answer

FOLDER = Path(__file__).resolve().parent.parent / "page"
PAGES = {"/": "index.html", "/docs": "docs.html", "/redoc": "redoc.html"}
"""The paths of the pages, and their files."""
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""The media types of the files that are served, by the ends of their names. No other file is served."""
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
"""The Content-Security-Policy of the page."""
API_POLICY = POLICY | {"style-src": "'self' 'unsafe-inline'"}
"""That of the API pages: Swagger UI and Redoc put their styles into the page."""


@dataclass(frozen=True)
class _File:
    content: bytes
    compressed: bytes | None
    """By gzip; None if that is not smaller."""
    media_type: str
    etag: str


@cache
def _read(path: Path) -> _File:
    content = path.read_bytes()
    compressed = gzip.compress(content, mtime=0)
    return _File(
        content,
        compressed if len(compressed) < len(content) else None,
        MEDIA_TYPES[path.suffix],
        hashlib.sha256(content).hexdigest()[:32],
    )


def page_files() -> dict[str, Path]:
    """All paths that the page needs, each with its file. None needs an API key: the files hold no data."""
    below = [path for path in sorted(FOLDER.rglob("*")) if path.suffix in MEDIA_TYPES and path.suffix != ".html"]
    return {path: FOLDER / name for path, name in PAGES.items()} | {
        f"/page/{path.relative_to(FOLDER).as_posix()}": path for path in below
    }


def create_router(files: Mapping[str, Path]) -> APIRouter:
    """The routes of the files of `page_files`. Without any, `/` says where the API is described."""
    router = APIRouter(include_in_schema=False)
    if not files:
        router.get("/")(_get_root)
        return router

    async def get_page(request: Request) -> Response:
        path = request.scope["route"].path
        return await _answer(files[path], request, POLICY if path == "/" else API_POLICY)

    async def get_file(name: str, request: Request) -> Response:
        """Only the listed files: nothing is looked for by its name."""
        file = files.get(f"/page/{name}")
        if file is None:
            raise HTTPException(404)
        return await _answer(file, request, POLICY)

    for path in PAGES:
        router.get(path)(get_page)
    router.get("/page/{name:path}")(get_file)
    return router


async def _get_root() -> Response:
    return json_answer({"name": "Carry", "version": version(DISTRIBUTION), "openapi": "openapi.json"})


async def _answer(path: Path, request: Request, policy: Mapping[str, str]) -> Response:
    file = await to_thread(_read, path)  # the first time is slow: other requests would wait
    content, etag = file.content, f'"{file.etag}"'
    headers = {
        # A browser keeps the file, and asks each time whether it has changed: no update leaves it with old ones.
        "Cache-Control": "no-cache",
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Referrer-Policy": "no-referrer",
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
    accepted = best_coding(request.headers.get("accept-encoding", ""), ("gzip",))
    if file.compressed is not None and accepted is not None:
        content, etag = file.compressed, f'"{file.etag}-gzip"'
        headers["Content-Encoding"] = "gzip"
    headers["ETag"] = etag
    if _matches(request.headers.get("if-none-match", ""), etag):
        headers.pop("Content-Encoding", None)
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers | {"Content-Type": file.media_type})


def _matches(if_none_match: str, etag: str) -> bool:
    """Whether a header If-None-Match names an ETag (RFC 9110, section 13.1.2), also weakly: a proxy may weaken it."""
    return if_none_match.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
