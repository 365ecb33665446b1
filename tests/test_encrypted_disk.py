"""An index on an encrypted file system (docs/privacy.md): it works there, and what lies below it says nothing."""

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.disk, pytest.mark.usefixtures("quick_builds")]

TITLE = "Porcelain Teapot of Grandmother Ottilie"
SESSION = "0123456789abcdef0123456789abcdef"
QUERY = "teapot like the one of grandmother"


@dataclass(frozen=True)
class EncryptedDisk:
    """A folder that is encrypted file by file: what is written to `inside` lies in `outside`."""

    inside: Path
    outside: Path
    password: Path

    def mount(self) -> None:
        said = self.password.with_suffix(".log")
        command = ["gocryptfs", "-q", "-nosyslog", "-passfile", self.password, self.outside, self.inside]
        with said.open("w") as log:  # no pipe, which the process in the background would keep open
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)
        if done.returncode:
            pytest.skip(f"gocryptfs cannot mount here: {said.read_text().strip()}")

    def unmount(self) -> None:
        subprocess.run(["fusermount3", "-u", self.inside], check=True)


@pytest.fixture
def disk(tmp_path) -> Iterator[EncryptedDisk]:
    if shutil.which("gocryptfs") is None:
        pytest.skip("gocryptfs is not installed; make test-disk installs it")
    found = EncryptedDisk(tmp_path / "plain", tmp_path / "cipher", tmp_path / "password")
    found.inside.mkdir()
    found.outside.mkdir()
    found.password.write_text("not a good one\n")
    init = ["gocryptfs", "-init", "-q", "-scryptn", "10", "-passfile", found.password, found.outside]
    subprocess.run(init, check=True, capture_output=True)
    found.mount()
    try:
        yield found
    finally:
        if found.inside.is_mount():
            found.unmount()


def holding(folder: Path, secrets: Sequence[str]) -> set[str]:
    """Those that stand in the content or the name of a file below a folder."""
    found = set()
    for file in folder.rglob("*"):
        content = os.fsencode(file.relative_to(folder)) + (file.read_bytes() if file.is_file() else b"")
        found |= {secret for secret in secrets if secret.encode() in content}
    return found


def test_an_index_works_on_an_encrypted_disk_and_nothing_of_it_can_be_read_below(
    imgsearch, catalog, disk, tmp_path, monkeypatch
):
    with (tmp_path / "shop.csv").open("w", newline="") as file:
        paths = sorted(path.relative_to(catalog) for path in catalog.rglob("*.png"))
        csv.writer(file).writerows([("path", "title"), *((path, TITLE) for path in paths)])
    index = disk.inside / "idx"
    build = ("build-index", catalog, "--index", index)
    log = tmp_path / "log.csv"
    log.write_text(f"time,user,event,path,query\n2026-01-31T12:00:00Z,ottilie,click,cups/cups-00.png,{QUERY}\n")
    monkeypatch.setenv("IMGSEARCH_EVENTS_KEY", str(tmp_path / "key"))
    settings = ("--backbone", "handcrafted", "--backend", "annoy", "--metadata", tmp_path / "shop.csv")
    judgment = ("feedback", "add", catalog / "cups/cups-01.png", "--chosen", "cups/cups-00.png", "--session", SESSION)

    def asked() -> list[str]:
        done = imgsearch("query", catalog / "cups/cups-00.png", "--index", index, "--format", "json", "--feedback")
        assert done.returncode == 0, done.stderr
        return [hit["path"] for hit in json.loads(done.stdout)[0]["hits"]]

    assert imgsearch(*build, *settings).returncode == 0
    first = asked()
    shutil.copy(catalog / "fish/fish-00.png", catalog / "cups/cups-02.png")
    assert imgsearch(*build).returncode == 0
    assert imgsearch("rollback", "--index", index).returncode == 0
    assert imgsearch(*judgment, "--index", index).returncode == 0
    assert imgsearch("events", "import", log, "--index", index).returncode == 0
    disk.unmount()
    below = holding(disk.outside, secrets := ("cups/cups-00.png", TITLE, SESSION, QUERY, "manifest", "items.sqlite"))
    disk.mount()

    assert below == set()
    assert holding(disk.inside, secrets) == set(secrets)  # they are there, for who has the password
    assert asked()[0] == first[0] == "cups/cups-00.png"
    assert imgsearch("check", "--index", index, "--deep").returncode == 0
