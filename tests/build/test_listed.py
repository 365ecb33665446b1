"""A catalog that is a list of URLs: of local files, and of objects in a store (fsspec's memory, under S3's name)."""

import datetime as dt
import os
import re
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from typing import ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from imgsearch import build_index, embed
from imgsearch.cli import main
from imgsearch.errors import ImageError, MissingComponentError, RefusedError, ServerError, UsageError
from imgsearch.images import stores
from imgsearch.images.listed import ListedScan, UrlList
from imgsearch.images.reading import read_file
from imgsearch.store import generations
from imgsearch.store.generations import read_manifest

ENCODER = "handcrafted:color"
IMAGES = 30


@pytest.fixture
def store(monkeypatch):
    """What s3:// leads to; `calls` counts what is asked."""

    class Store(MemoryFileSystem):
        protocol = "s3"
        store: ClassVar = {}
        pseudo_dirs: ClassVar = [""]
        calls: ClassVar = Counter()
        broken: ClassVar = {}

        def ask(self, what, path):
            self.calls[what] += 1
            if error := self.broken.get(what):
                raise error

        def info(self, path, **options):
            self.ask("info", path)
            return super().info(path, **options)

        def ls(self, path, **options):
            self.ask("ls", path)
            return super().ls(path, **options)

        def cat_file(self, path, **options):
            self.ask("cat", path)
            return super().cat_file(path, **options)

    monkeypatch.setitem(_registry, "s3", Store)
    stores.store_of.cache_clear()
    yield Store()
    stores.store_of.cache_clear()


@pytest.fixture(scope="module")
def painted(tmp_path_factory, lay_out):
    return lay_out(tmp_path_factory.mktemp("painted"), IMAGES)


@pytest.fixture(scope="module")
def expected(painted, tmp_path_factory):
    embed(painted, folder := tmp_path_factory.mktemp("folder"), backbone=ENCODER)
    return embeddings(folder)


def embeddings(directory):
    """The bytes of all embeddings, and which items they are of."""
    folder = directory / read_manifest(directory).folder
    with closing(sqlite3.connect(folder / generations.ITEMS)) as connection:
        connection.text_factory = os.fsdecode
        rows = connection.execute("SELECT row, path, size, sha256, product, category FROM items ORDER BY row")
        return (folder / generations.EMBEDDINGS).read_bytes(), rows.fetchall()


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def put(store, folder, names):
    for name in names:
        store.pipe_file(f"shop/images/{name}", (folder / name).read_bytes())


@pytest.fixture
def written(tmp_path):
    """Write a list: written(*lines)."""

    def write(*urls):
        file = tmp_path / "paths.txt"
        file.write_bytes(b"".join(os.fsencode(url) + b"\n" for url in urls))
        return file

    return write


def test_a_list_of_local_files_gives_the_embeddings_of_their_folder(painted, expected, written, tmp_path):
    urls = [f"file://{painted}/{name}" for name in files_of(painted)]

    lines = ["\ufeff" + urls[-1] + "\r", "", *reversed(urls), urls[3]]
    report = embed(written(*lines), tmp_path / "out", backbone=ENCODER)
    from_folder = embed(painted, tmp_path / "out")

    assert (report.embedded, embeddings(tmp_path / "out")) == (IMAGES, expected)
    assert read_manifest(tmp_path / "out").catalog == os.path.realpath(painted)
    assert (from_folder.unchanged, from_folder.published) == (IMAGES, False)


def test_of_local_files_the_same_are_left_out_as_of_a_folder(lay_out, written, tmp_path):
    catalog = lay_out(tmp_path / "catalog", 4)
    image = (catalog / "a/0000.png").read_bytes()
    for name in (".hidden.png", "@eaDir/thumb.png", "notes.txt", "a/caf\udce9.png", "a/%20.png"):
        (catalog / name).parent.mkdir(exist_ok=True)
        (catalog / name).write_bytes(image)
    (catalog / "a/link.png").symlink_to(catalog / "a/0000.png")
    (catalog / "linked").symlink_to(catalog / "b")
    (catalog / "b/empty.png").touch()
    names = [*files_of(catalog), "linked/0001.png", "b/gone.png", f"b/{'n' * 300}.png", "b/empty.png/x.png"]
    urls = written(*(f"file://{catalog}/{name}" for name in names))

    report = embed(urls, tmp_path / "out", backbone=ENCODER)
    followed = embed(urls, tmp_path / "followed", backbone=ENCODER, follow_links=True)

    assert report.left_out == {"hidden": 2, "link": 2, "other": 1}
    assert report.causes == {"empty": 1, "vanished": 1, "path_too_long": 1, "unreadable": 1}
    assert report.count == 4 + 2
    assert followed.count == report.count + 2


def test_objects_of_a_store_are_embedded_and_brought_up_to_date_as_files_are(
    store, painted, expected, written, tmp_path, lay_out
):
    names = files_of(painted)
    put(store, painted, names)
    urls = [f"s3://shop/images/{name}" for name in names]

    report = embed(written(*urls), tmp_path / "out", backbone=ENCODER)
    first = embeddings(tmp_path / "out")
    store.calls.clear()
    again = embed(written(*reversed(urls)), tmp_path / "out")
    asked = dict(store.calls)
    put(store, lay_out(tmp_path / "other", 1, first=99).parent / "other", ["a/0099.png"])
    store.pipe_file("shop/images/b/0001.png", (painted / "a/0000.png").read_bytes() + b" ")
    changed = embed(written(*urls[5:], urls[0], "s3://shop/images/a/0099.png"), tmp_path / "out")

    assert (report.embedded, first) == (IMAGES, expected)
    assert read_manifest(tmp_path / "out").catalog == "s3://shop/images"
    assert (again.unchanged, again.published, asked) == (IMAGES, False, {"ls": 3})
    assert (changed.embedded, changed.removed) == (2, 4)


def test_a_list_that_lost_most_of_its_lines_is_refused(store, painted, written, tmp_path, capsys):
    names = files_of(painted)
    put(store, painted, names)
    embed(written(*(f"s3://shop/images/{name}" for name in names)), tmp_path / "out", backbone=ENCODER)

    for urls in ([], [f"s3://shop/images/{names[0]}", f"s3://shop/images/{names[-1]}"]):
        with pytest.raises(RefusedError, match="nothing was changed"):
            embed(written(*urls), tmp_path / "out")
    assert main(["embed", str(written()), "-o", str(tmp_path / "out")]) == 9
    assert "lists no file" in capsys.readouterr().err
    assert read_manifest(tmp_path / "out").count == IMAGES


def test_objects_that_cannot_be_used_have_the_causes_of_files(store, painted, written, tmp_path):
    put(store, painted, names := files_of(painted)[:12])
    store.pipe_file("shop/images/a/empty.png", b"")
    store.pipe_file("shop/images/a/large.png", bytes(100_000))
    store.pipe_file("shop/images/a/text.png", b"<html>")
    store.pipe_file("shop/images/b/folder.png/0.jpg", b"")
    names += ["a/empty.png", "a/gone.png", "a/large.png", "a/text.png", "b/folder.png"]

    report = embed(
        written(*(f"s3://shop/images/{name}" for name in names)),
        tmp_path / "out",
        backbone=ENCODER,
        max_bytes=99_999,
    )

    assert report.causes == {
        "empty": 1,
        "vanished": 1,
        "too_many_bytes": 1,
        "not_an_image": 1,
        "not_regular_file": 1,
    }
    assert report.count == 12


@pytest.mark.parametrize(
    ("what", "error", "cause"),
    [
        ("info", PermissionError("Forbidden"), "unreadable"),
        ("cat", FileNotFoundError("s3"), "vanished"),
        ("info", RuntimeError("no\nroute"), "unreachable"),
    ],
)
def test_what_a_store_says_becomes_a_cause(store, what, error, cause):
    store.pipe_file("shop/a.png", b"12345")
    store.broken[what] = error

    with pytest.raises(ImageError) as raised:
        read_file("s3://shop/a.png")

    assert (raised.value.cause, "\n" in raised.value.message) == (cause, False)


def test_an_object_that_is_shorter_than_said_has_changed(store, monkeypatch):
    store.pipe_file("shop/a.png", b"12345")
    monkeypatch.setattr(type(store), "cat_file", lambda *_, **__: b"123")

    with pytest.raises(ImageError, match="changed while it was read"):
        read_file("s3://shop/a.png")


def test_a_store_that_is_lost_ends_the_build_and_rejects_nothing(store, painted, written, tmp_path):
    put(store, painted, names := files_of(painted))
    urls = written(*(f"s3://shop/images/{name}" for name in names))

    for what in ("ls", "cat"):
        store.broken[what] = OSError("no route to host")
        with pytest.raises(ServerError, match="no route to host"):
            embed(urls, tmp_path / "out", backbone=ENCODER)
        del store.broken[what]

    assert embed(urls, tmp_path / "out", backbone=ENCODER).causes == {}


def test_where_a_folder_may_not_be_listed_its_objects_are_asked_for(store, painted, written):
    put(store, painted, names := files_of(painted))
    store.broken["ls"] = PermissionError("AccessDenied")

    with closing(UrlList(written(*(f"s3://shop/images/{name}" for name in names)))) as urls:
        found = list(ListedScan(urls))

    assert [file.path for file in found] == names
    assert {file.cause for file in found} == {""}
    assert store.calls["info"] == IMAGES


@pytest.mark.parametrize(
    ("said", "time"),
    [
        ({"LastModified": dt.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=dt.UTC)}, 1767323045 * 10**9),
        ({"LastModified": dt.datetime(2026, 1, 2, 3, 4, 5)}, 1767323045 * 10**9),  # noqa: DTZ001
        ({"mtime": 5.9, "created": 3.0}, 5 * 10**9),
        ({"mtime": -1e30}, -(2**63) + 1),
        ({}, 0),
    ],
)
def test_the_time_of_an_object_is_in_whole_seconds(said, time):
    assert stores._status({"type": "file", "size": 1, **said}) == (1, time)


def test_an_object_without_a_time_is_known_by_its_tag():
    one, same, other = (stores._status({"type": "file", "size": 1, "ETag": tag}).mtime_ns for tag in ("x", "x", "y"))

    assert 0 < one == same != other < 2**63


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([b"/srv/catalog/a.jpg"], "or a list of URLs .*found '/srv/catalog/a.jpg' in line 1 of"),
        ([b"a.jpg"], "list of URLs"),
        ([b"# images", b"s3://shop/a.jpg"], "list of URLs"),
        ([b"s3://shop/a.jpg", b"http://shop/a.jpg"], "list of URLs .*in line 2 of"),
        ([b"simplecache::s3://shop/a.jpg"], "list of URLs"),
        ([b"zip://a.jpg::file:///srv/a.zip"], "list of URLs"),
        ([b"memory://shop/a.jpg"], "list of URLs"),
        ([b"\xff\xfes\0003\0:\0"], "list of URLs"),
        ([b"s3://shop/a.jpg", b"s3://other/a.jpg"], "begins with s3://shop/ as the first does, found 's3://other"),
        ([b"file:///srv/a.jpg", b"s3://srv/a.jpg"], "begins with file:/// as the first does"),
        ([b"file://srv/a.jpg"], "expected s3://"),
        ([b"s3:///a.jpg"], "expected s3://"),
        ([b"s3://shop"], "list of URLs"),
        ([b"s3://shop/a/"], "without empty parts"),
        ([b"s3://shop//a.jpg"], "without empty parts"),
        ([b"file:///srv/../etc/a.jpg"], "without empty parts"),
        ([b"file:///srv/./a.jpg"], "without empty parts"),
        ([b"file:///srv/a\0.jpg"], "without empty parts"),
        ([b"file:///srv/" + 9000 * b"a"], "4096 bytes at most"),
        ([b"s3://shop/\xff.jpg"], "expected UTF-8"),
    ],
)
def test_a_list_of_anything_else_is_refused(store, tmp_path, lines, message):
    (tmp_path / "paths.txt").write_bytes(b"\n".join(lines))

    with pytest.raises(UsageError, match=message):
        UrlList(tmp_path / "paths.txt")


def test_a_password_in_a_list_is_not_repeated(written):
    with pytest.raises(UsageError) as raised:
        UrlList(written("s3://key:secret@shop/a.jpg"))

    assert "secret" not in raised.value.message


@pytest.mark.parametrize(
    ("urls", "root", "folders"),
    [
        (["s3://shop/a.jpg"], "s3://shop", [("", ["a.jpg"])]),
        (["s3://shop/a/x.jpg"], "s3://shop/a", [("", ["x.jpg"])]),
        (["s3://shop/a/x.jpg", "s3://shop/ab/x.jpg"], "s3://shop", [("a", ["x.jpg"]), ("ab", ["x.jpg"])]),
        (["s3://shop/a/b/x.jpg", "s3://shop/a/y.jpg"], "s3://shop/a", [("", ["y.jpg"]), ("b", ["x.jpg"])]),
        (["file:///none/a.jpg", "file:///other/b.jpg"], "/", [("none", ["a.jpg"]), ("other", ["b.jpg"])]),
    ],
)
def test_the_root_is_the_longest_common_folder(store, written, urls, root, folders):
    with closing(UrlList(written(*urls))) as found:
        assert (found.root, list(found.folders())) == (root, folders)


def test_without_its_library_a_store_ends_with_what_to_install(monkeypatch, written, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    stores.store_of.cache_clear()

    assert (
        main(["embed", str(written("s3://shop/a.jpg")), "-o", str(tmp_path / "out")]) == MissingComponentError.exit_code
    )
    assert "pip install 'imgsearch-toolkit[urls]' s3fs" in capsys.readouterr().err


def test_an_index_of_a_store_shows_its_images_and_answers_without_them(store, painted, written, tmp_path, capsys):
    put(store, painted, names := files_of(painted))
    index, page = tmp_path / "index", tmp_path / "page.html"
    build_index(
        written(*(f"s3://shop/images/{name}" for name in names)), index, backbone="handcrafted", backend="exact"
    )
    options = ["--index", str(index), "--format", "html", "-o", str(page), "--rerank", "geometric"]

    def ask():
        assert main(["query", str(painted / "a/0000.png"), *options]) == 0
        return len(re.findall("<img", page.read_text()))

    shown = ask()
    store.broken.update(info=OSError("no route to host"))
    hidden = ask()

    assert (shown, hidden < shown) == (6, True)
    for item in ("a/0003.png", "s3://shop/images/a/0003.png"):
        assert main(["query", "--item", item, "--index", str(index)]) == 0
    assert (
        main(
            ["build-index", str(tmp_path / "paths.txt"), "--index", str(index), "--report", str(tmp_path / "paths.txt")]
        )
        == 2
    )


def test_the_service_reads_images_from_a_store(store, painted, written, tmp_path):
    from imgsearch import Index
    from imgsearch.service.files import item_at, open_image
    from imgsearch.service.problems import HttpError

    put(store, painted, names := files_of(painted))
    build_index(
        written(*(f"s3://shop/images/{name}" for name in names)),
        tmp_path / "i",
        backbone="handcrafted",
        backend="exact",
    )
    with Index.open(tmp_path / "i") as index:
        item, sha256 = item_at(index, "a/0000.png")
        file, size, kind = open_image(index, item, sha256)
        store.rm("shop/images/a/0000.png")
        with pytest.raises(HttpError, match="not in the catalog"):
            open_image(index, item, sha256)

    data = (painted / "a/0000.png").read_bytes()
    assert (file.read(), size, kind) == (data, len(data), "image/png")
