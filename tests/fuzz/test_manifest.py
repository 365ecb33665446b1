"""Whatever `manifest.json` says, it is understood, or it is damage."""

import contextlib
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imgsearch import Index, build_index, check, rollback
from imgsearch.errors import DamagedIndexError, ImgsearchError, NoIndexError, UsageError
from imgsearch.images.policy import FilePolicy
from imgsearch.records import as_json, read
from imgsearch.store import generations
from imgsearch.store.generations import read_manifest
from imgsearch.store.manifest import Manifest

GOLDEN = Path(__file__).parents[1] / "store" / "golden" / "v1"

texts = st.sampled_from(
    [
        *("", ".", "..", "/", "/etc/passwd", "../../x", "gen-000001/../../x", "a\0b", "\udce9", "x" * 5000, "-", "1"),
        *("cosine", "annoy", "exact", "network", "handcrafted", "pad", "bf16", "lock", "manifest.json", "gen-000001"),
    ]
) | st.text(max_size=20)
numbers = st.sampled_from([0, 1, -1, 2**31, 2**63, 2**64, 10**300, 10**4000, -(10**4000), 0.5, 1e308]) | st.integers()
scalars = st.none() | st.booleans() | numbers | st.floats() | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)


def places_in(document: object, so_far: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """The way to each value in a document."""
    inside = document.items() if isinstance(document, dict) else ()
    return [so_far, *(place for key, value in inside for place in places_in(value, (*so_far, key)))]


@st.composite
def changed(draw, document: dict) -> bytes:
    """The document with values replaced, removed, doubled, renamed or buried."""
    document = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        *way, key = draw(st.sampled_from(places_in(document)[1:]))
        inside = document
        for step in way:
            inside = inside[step]
        match draw(st.sampled_from(("replace", "replace", "remove", "rename", "add", "bury"))):
            case "replace":
                inside[key] = draw(values)
            case "remove":
                del inside[key]
            case "rename":
                inside[draw(texts)] = inside.pop(key)
            case "add":
                inside[draw(texts)] = draw(values)
            case "bury":
                inside[key] = [inside[key]]
    if draw(st.booleans()):  # else its checksum is all that is looked at
        rest = {key: value for key, value in document.items() if key != "sha256"}
        document["sha256"] = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return json.dumps(document).encode()


def with_past_finds(test):
    finds = [
        *(b"", b"null", b"[]", b"{}", b"0", b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b'{"format": "imgsearch"}'),
        *(b"[" * 200_000, b'{"a":' * 200_000, b'{"format": "imgsearch", "version": 1, "files": ' + b"[" * 200_000),
        *(b'{"format": "imgsearch", "version": %s}' % version for version in (b"NaN", b"1e999", b"true", b"9" * 5000)),
        b'{"format": "imgsearch", "version": 1, "version": 99}',
    ]
    for data in finds:
        test = example(data)(test)
    return test


LENGTHS = pytest.mark.parametrize("examples", [150, pytest.param(6000, marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory, images) -> Path:
    """A tiny catalog beside its index, which is in its second generation. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "catalog").mkdir()
    for number, data in enumerate(images["png"]):
        (folder / "catalog" / f"{number}.png").write_bytes(data)
    build_index(folder / "catalog", folder / "index", backbone="handcrafted", backend="exact")
    build_index(folder / "catalog", folder / "index", seed=1)
    return folder


@pytest.fixture
def index(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole / "index", tmp_path / "index"))


def documents(index: Path, spoilt):
    """Manifests of today, of the first imgsearch, and what is left of them."""
    files = [(index / generations.MANIFEST).read_bytes(), (GOLDEN / "annoy" / generations.MANIFEST).read_bytes()]
    return st.sampled_from([json.loads(data) for data in files]).flatmap(changed) | spoilt(files)


@LENGTHS
def test_a_manifest_is_understood_and_names_only_its_own_files_or_is_damage(index, spoilt, examples):
    @settings(max_examples=examples, deadline=None)
    @given(documents(index, spoilt))
    @with_past_finds
    def holds(data):
        (index / generations.MANIFEST).write_bytes(data)
        try:
            manifest = read_manifest(index)
        except DamagedIndexError as error:
            if str(index) not in error.message:
                raise
            return
        assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
        for name in (*manifest.files, manifest.folder, manifest.encoder_folder):
            assert (index / name).resolve().is_relative_to(index.resolve())
            assert "\0" not in name

    holds()


@pytest.mark.parametrize("examples", [100, pytest.param(4000, marks=pytest.mark.slow)])
def test_an_index_with_any_manifest_answers_or_is_damaged(index, whole, spoilt, examples):
    image = next((whole / "catalog").iterdir())
    expected = [0, 1, 2, 3]

    @settings(max_examples=examples, deadline=None)
    @given(documents(index, spoilt))
    @with_past_finds
    def holds(data):
        (index / generations.MANIFEST).write_bytes(data)
        try:
            with Index.open(index) as opened:
                hits = opened.search(image, k=99)
            assert sorted(int(hit.path[0]) for hit in hits) == expected
        except (DamagedIndexError, NoIndexError):
            pass
        for finding in check(index, deep=True):
            assert finding.problem
            assert finding.remedy

    holds()


@pytest.mark.parametrize("examples", [10, pytest.param(700, marks=pytest.mark.slow)])
def test_a_build_and_a_rollback_over_any_manifest_succeed_or_say_why_not(whole, tmp_path, spoilt, examples):
    @settings(max_examples=examples, deadline=None)
    @given(documents(whole / "index", spoilt))
    def holds(data):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(whole, tmp_path / "copy")
        index = tmp_path / "copy" / "index"
        for change in (lambda: rollback(index), lambda: build_index(tmp_path / "copy" / "catalog", index)):
            (index / generations.MANIFEST).write_bytes(data)
            with contextlib.suppress(ImgsearchError):
                change()
                assert check(index) == []
        assert len(list((tmp_path / "copy" / "catalog").iterdir())) == 4
        assert {path.name for path in (tmp_path / "copy").iterdir()} == {"catalog", "index"}

    holds()


@pytest.mark.parametrize("examples", [50, pytest.param(2500, marks=pytest.mark.slow)])
def test_a_policy_is_understood_or_refused(examples):
    defaults = as_json(FilePolicy())
    names = st.sampled_from([*defaults, "other"])

    @settings(max_examples=examples, deadline=None)
    @given(st.dictionaries(names, values, max_size=5))
    @example({"max_bytes": True})
    @example({"max_pixels": 0})
    @example({"max_pixels": 10**4000})
    @example({"keep_damaged": 1})
    def holds(data):
        data = {**defaults, **data}
        try:
            policy = read(FilePolicy, data)
        except (ValueError, UsageError):
            return
        assert as_json(policy) == {name: data[name] for name in defaults}

    holds()
