"""A local page to try a model: type a review, see the verdict, the trajectory and the gates.

python -m imdb_lightning.demo RUN
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import parse_qs


if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

    from .trained import Trained

HOST = "127.0.0.1"
LARGEST = 1 << 20  # bytes of a request
EXAMPLE = "The first half is dull, but the ending is wonderful."


def main() -> None:
    """Serves until Ctrl-C. Exits with 2 where the model cannot be read or the port is taken."""
    arguments = parser().parse_args()
    try:
        import uvicorn
    except ImportError:
        leave("it takes pip install 'imdb-lightning[demo]'")
    from .trained import LoadError, load

    try:
        model = load(arguments.run, arguments.trust)
    except LoadError as error:
        leave(str(error))
    print(f"http://{HOST}:{arguments.port} (Ctrl-C ends it)", flush=True)
    uvicorn.run(application(model), host=HOST, port=arguments.port, log_level="warning")


def application(model: Trained) -> Starlette:
    """The page. Only requests that name this machine are answered."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse, PlainTextResponse, Response
    from starlette.routing import Route

    from .explain.page import html
    from .explain.reading import read

    def page(text: str) -> str:
        return html(model, text, read(model, text), form=True)

    async def answer(request: Request) -> Response:
        text = EXAMPLE
        if request.method == "POST":
            body = b""
            async for part in request.stream():
                body += part
                if len(body) > LARGEST:
                    return PlainTextResponse("a review of at most a megabyte", status_code=413)
            fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
            text = fields.get("text", [""])[0]
        return HTMLResponse(await run_in_threadpool(page, text))

    return Starlette(
        routes=[Route("/", answer, methods=["GET", "POST"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
    )


def leave(line: str) -> NoReturn:
    print(f"imdb_lightning.demo: {line}", file=sys.stderr)
    sys.exit(2)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m imdb_lightning.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="a run, one of its checkpoints, or an export")
    parser.add_argument("--port", type=int, default=7860, help="of 127.0.0.1 (7860)")
    parser.add_argument("--trust", action="store_true", help="run a cell that is not ours")
    return parser


if __name__ == "__main__":
    main()
