"""A local page to try a model: type a review, see prediction, trajectory and gates.

python -m imdb_lightning.demo RUN
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from . import cli


if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

    from .inference import Predictor

HOST = "127.0.0.1"
MAX_BYTES = 1 << 20  # of a request
EXAMPLE = "The first half is dull, but the ending is wonderful."


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Serves until Ctrl-C. Exits with 2 if the model cannot be read or the port is taken."""
    arguments = (p := parser()).parse_args(argv)
    try:
        import uvicorn
    except ImportError:
        p.fail("needs pip install 'imdb-lightning[demo]'")
    from .inference import LoadError, load

    try:
        model = load(arguments.run, arguments.trust)
    except LoadError as error:
        p.fail(str(error))
    if not 0 <= arguments.port < 65_536:
        p.fail(f"--port {arguments.port}: must be from 0 to 65535")
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, arguments.port))
    except OSError as error:
        p.fail(f"--port {arguments.port}: {error.strerror}; choose another")
    print(f"http://{HOST}:{arguments.port} (stop with Ctrl-C)", flush=True)
    uvicorn.run(
        application(model),
        host=HOST,
        port=arguments.port,
        log_level="critical",
        timeout_keep_alive=5,
    )


def application(model: Predictor) -> Starlette:
    """The page. Only requests for this machine's name are answered."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse, PlainTextResponse, Response
    from starlette.routing import Route

    from .explain.explanation import explain
    from .explain.page import html

    def page(text: str) -> str:
        return html(model, text, explain(model, text), form=True)

    async def answer(request: Request) -> Response:
        text = EXAMPLE
        if request.method == "POST":
            body = b""
            async for part in request.stream():
                body += part
                if len(body) > MAX_BYTES:
                    return PlainTextResponse(
                        "a review may have at most a megabyte", status_code=413
                    )
            fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
            text = fields.get("text", [""])[0]
        return HTMLResponse(await run_in_threadpool(page, text))

    return Starlette(
        routes=[Route("/", answer, methods=["GET", "POST"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
    )


def parser() -> cli.Parser:
    p = cli.Parser("demo", __doc__)
    p.add_model()
    p.add_argument("--port", type=int, default=7860, help="port on 127.0.0.1; default: 7860")
    return p


if __name__ == "__main__":
    main()
