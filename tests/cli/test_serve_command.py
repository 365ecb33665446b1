"""`imgsearch serve`: what its options say to the service, and what they refuse."""

import os
import signal
import sys
from types import ModuleType

import pytest

from imgsearch.service.settings import Settings

TOKEN = "0123456789abcdef"


@pytest.fixture
def started(monkeypatch) -> list[object]:
    """What the service was started with; it starts nothing, and ends as if by SIGINT."""
    calls: list[object] = []

    def serve(app, host, port, root_path, access_log, say):
        calls.append((app, host, port, root_path, access_log))
        say("http://127.0.0.1:8000")
        return signal.SIGINT

    app = ModuleType("imgsearch.service.app")
    app.make_app = lambda settings: settings
    monkeypatch.setitem(sys.modules, "imgsearch.service.app", app)
    monkeypatch.setattr("imgsearch.service.server.serve", serve)
    return calls


def token_in(folder, text=f"{TOKEN}\n", mode=0o600):
    file = folder / "token"
    file.write_text(text)
    file.chmod(mode)
    return file


def test_by_default_this_machine_alone_is_answered(imgsearch, small, started):
    done = imgsearch("serve", "--index", small)

    assert started == [(Settings(small), "127.0.0.1", 8000, "", False)]
    assert done.stderr == f"imgsearch: serving {small} (24 images) at http://127.0.0.1:8000\n"
    assert (done.returncode, done.stdout) == (130, "")


def test_all_options_reach_the_service(imgsearch, small, started, tmp_path):
    options = ["--host", "0.0.0.0", "--port", "0", "--token-file", token_in(tmp_path), "--root-path", "/search/"]
    options += ["--cors-origin", "https://Shop.example", "--cors-origin", "http://[::1]:80", "--rate-limit", "60"]

    done = imgsearch("serve", "--index", small, *options, "--model", "m.keras", "--access-log", "-q")

    settings, *rest = started[0]
    assert rest == ["0.0.0.0", 0, "/search", True]
    assert settings == Settings(
        small,
        model=settings.model,
        token=TOKEN,
        root_path="/search",
        cors_origins=("https://shop.example", "http://[::1]:80"),
        rate=60,
        allow_any_host=True,
    )
    assert (str(settings.model), done.stderr) == ("m.keras", "")


def test_sigterm_asked_for_the_end_that_came(imgsearch, small, started, monkeypatch):
    monkeypatch.setattr("imgsearch.service.server.serve", lambda *_: signal.SIGTERM)

    assert imgsearch("serve", "--index", small).returncode == 0


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "::1"])
def test_loopback_needs_no_token(imgsearch, small, started, host):
    imgsearch("serve", "--index", small, "--host", host)

    assert started[0][0] == Settings(small)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "shop.example"])
def test_another_address_needs_a_token_or_the_word_that_it_needs_none(imgsearch, small, started, host):
    done = imgsearch("serve", "--index", small, "--host", host)

    assert (done.returncode, started) == (2, [])
    assert done.stderr == (
        f"imgsearch: other machines can reach {host}: add --token-file FILE to ask them for a token, or --insecure to"
        " answer everybody\n"
    )
    imgsearch("serve", "--index", small, "--host", host, "--insecure")
    assert started[0][0] == Settings(small, allow_any_host=True)


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (TOKEN, 0o604, "expected a file that only its owner and group may read"),
        ("x" * 15, 0o600, "expected 16 or more letters"),
        ("x" * 5000, 0o600, "expected 16 or more letters"),
        ("two words, which is one too many", 0o600, "and no space"),
        ("cafécafécafécafécafé", 0o600, "expected 16 or more letters"),
        ("", 0o600, "expected 16 or more letters"),
    ],
)
def test_a_token_that_is_no_secret_is_refused(imgsearch, small, started, tmp_path, text, mode, words):
    done = imgsearch("serve", "--index", small, "--token-file", token_in(tmp_path, text, mode))

    assert (done.returncode, started) == (2, [])
    assert words in done.stderr
    assert text.strip() not in done.stderr or not text


def test_a_token_is_read_from_a_file_that_its_group_may_read_and_nothing_else(imgsearch, small, started, tmp_path):
    assert imgsearch("serve", "--index", small, "--token-file", token_in(tmp_path, mode=0o640)).returncode == 130
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    for path in (pipe, tmp_path, tmp_path / "missing"):
        done = imgsearch("serve", "--index", small, "--token-file", path)
        assert (done.returncode, str(path) in done.stderr) == (2, True), done.stderr
    assert len(started) == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--cors-origin", "*"],
        ["--cors-origin", "null"],
        ["--cors-origin", "https://shop.example/page"],
        ["--root-path", "search"],
        ["--root-path", "/a//b"],
        ["--root-path", "/a\r\nb"],
        ["--insecure", "--token-file", "x"],
        ["--port", "65536"],
        ["--rate-limit", "-1"],
    ],
)
def test_what_cannot_be_meant_is_refused(imgsearch, small, started, options):
    done = imgsearch("serve", "--index", small, *options)

    assert (done.returncode, started) == (2, [])
    assert options[0] in done.stderr


def test_without_an_index_there_is_nothing_to_serve(imgsearch, started):
    assert (imgsearch("serve").returncode, started) == (5, [])


def test_the_extra_is_named_where_it_is_missing(imgsearch, small, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("imgsearch.service.", "starlette."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)

    done = imgsearch("serve", "--index", small)

    assert done.returncode == 8
    assert "hint: pip install 'imgsearch-toolkit[serve]'" in done.stderr
