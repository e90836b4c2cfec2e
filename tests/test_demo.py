"""The page to try a model: served here alone, and right in a browser.

pytest tests/test_demo.py
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from tests.conftest import run_of


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    run = run_of(tmp_path_factory.mktemp("runs") / "run", "model=custom_gru")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "imdb_lightning.demo", str(run), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    urlopen(f"http://127.0.0.1:{port}/", timeout=10).close()
                    break
                except URLError:
                    assert time.monotonic() < deadline and server.poll() is None
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.terminate()


def post(address: str, text: bytes) -> str:
    with urlopen(Request(address, urlencode({"text": text}).encode()), timeout=60) as answer:
        return answer.read().decode()


def test_the_page_has_a_prediction_a_trajectory_and_gates(address: str) -> None:
    text = post(address, b"The plot was superb <i>indeed</i>")
    assert "The plot was superb &lt;i&gt;indeed&lt;/i&gt;" in text
    for part in ('class="prediction"', "The trajectory", "update gate z", "(12)"):
        assert part in text


@pytest.mark.parametrize(
    "text", [b"", b"\xff\xfe", b"\0", "\N{PILE OF POO}".encode(), b"superb " * 9_000]
)
def test_any_text_is_answered(address: str, text: bytes) -> None:
    assert 'class="prediction"' in post(address, text)


def test_other_names_and_large_requests_are_refused(address: str) -> None:
    with pytest.raises(HTTPError) as error:
        urlopen(Request(address, headers={"Host": "example.org"}), timeout=10)
    assert error.value.code == 400
    error.value.close()
    with pytest.raises(HTTPError) as error:
        post(address, b"a" * (2 << 20))
    assert error.value.code == 413
    error.value.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_gets_the_answer_to_a_review(address: str, tmp_path: Path) -> None:
    form = tmp_path / "form.html"
    form.write_text(
        f'<form method="post" action="{address}"><textarea name="text">superb acting</textarea>'
        "</form><script>document.forms[0].submit()</script>"
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [str(CHROMIUM), *flags, profile, "--dump-dom", form.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "superb acting</textarea>" in done.stdout
    assert 'class="prediction"' in done.stdout and "<polyline" in done.stdout
