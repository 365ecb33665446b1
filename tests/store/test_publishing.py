import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.projection import AdaptationGain
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.encoders.table import TABLE
from imgsearch.errors import DamagedIndexError, LockedError, NoIndexError, OutputError
from imgsearch.images.policy import FilePolicy
from imgsearch.store import generations, integrity, publishing
from imgsearch.store.calibration import Calibration, Curve
from imgsearch.store.generations import read_manifest
from imgsearch.store.locking import writer_lock
from imgsearch.store.manifest import FileRecord, Manifest
from imgsearch.store.search_settings import BackendSettings, Measured, SearchOptions

counts = st.integers(0, 2**40)
trees, seeds = st.integers(0, 10_000), st.integers(0, 2**31 - 1)
hexes = st.text("0123456789abcdef", min_size=64, max_size=64)
names = st.from_regex(r"[A-Za-z0-9_-]{1,9}(/[A-Za-z0-9_.-]{0,9}[a-z]){0,2}", fullmatch=True)
curves = st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 1)), min_size=1, max_size=9).map(
    lambda knots: Curve("platt", *(tuple(sorted(values)) for values in zip(*knots, strict=True)))
)


def detector_for(encoder):
    return EncoderSpec("items.keras", "detector", encoder.size, encoder.fit, encoder.dims, "sha256:00")


without_detector = st.builds(
    Manifest,
    generation=st.integers(1, 10**7),
    count=counts,
    rejected=counts,
    damaged=counts,
    catalog=st.text(),
    policy=st.builds(FilePolicy, st.integers(1, 2**40 - 1), st.integers(1, 2**40 - 1), st.booleans(), st.booleans()),
    encoder=st.sampled_from(
        [*(row.spec for row in TABLE.values()), choose_encoder("vgg16+handcrafted:color=0.3").spec]
    ),
    fingerprint=st.text("0123456789abcdef", min_size=16, max_size=16),
    detector=st.none(),
    detector_fingerprint=st.just(""),
    dims=counts,
    projection_count=counts,
    adaptation=st.none() | st.builds(AdaptationGain, counts, *[st.floats(0, 1)] * 4),
    search=st.none()
    | st.builds(
        SearchOptions,
        st.sampled_from(["auto", "annoy", "faiss", "exact"]),
        st.none() | trees,
        seeds,
        st.floats(0, 1, exclude_min=True),
    ),
    backend=st.none()
    | st.builds(BackendSettings, st.sampled_from(["annoy", "exact"]), trees, seeds, st.integers(0, 2**28)),
    measured=st.none() | st.builds(Measured, counts, st.floats(0, 1), *[st.floats(0, 1e9)] * 3),
    calibration=st.none() | st.builds(Calibration, st.text(), counts, st.floats(0, 1), curves, curves),
    metadata_file=st.text(),
    metadata_sha256=hexes | st.just(""),
    files=st.dictionaries(names, st.builds(FileRecord, counts, hexes), max_size=5),
)
manifests = without_detector | without_detector.map(
    lambda manifest: replace(manifest, detector=detector_for(manifest.encoder), detector_fingerprint="fedcba9876543210")
)
GOOD = Manifest(
    generation=3,
    count=2,
    rejected=1,
    damaged=0,
    catalog="/catalog",
    policy=FilePolicy(),
    encoder=TABLE["handcrafted"].spec,
    fingerprint="0123456789abcdef",
    detector=detector_for(TABLE["handcrafted"].spec),
    detector_fingerprint="fedcba9876543210",
    dims=TABLE["handcrafted"].spec.dims,
    projection_count=0,
    adaptation=None,
    search=SearchOptions(),
    backend=BackendSettings("annoy", 10, 0, 2000),
    measured=Measured(500, 0.993, 0.4, 0.6, 6.0),
    calibration=Calibration("product", 30, 0.02, Curve("platt", (-1, 1), (0, 1)), Curve("platt", (0,), (0.5,))),
    metadata_file="",
    metadata_sha256="",
    files={"gen-000003/items.sqlite": FileRecord(4, "aa")},
)


CALIBRATION = GOOD.to_json()["calibration"]


def written(folder, data):
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    (folder / generations.MANIFEST).write_bytes(text)
    return folder


def changed(**changes):
    return {**GOOD.to_json(), **changes}


@given(manifests)
@settings(deadline=None, max_examples=60)
def test_a_manifest_survives_the_round_trip_through_its_file(tmp_path_factory, manifest):
    folder = written(tmp_path_factory.mktemp("m"), manifest.to_json())

    assert read_manifest(folder) == manifest


def test_unknown_keys_of_a_manifest_are_ignored(tmp_path):
    data = changed(color="red", encoder={**GOOD.to_json()["encoder"], "smell": [1, 2]})
    rest = {key: value for key, value in data.items() if key != "sha256"}
    written(tmp_path, {**rest, "sha256": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()})

    assert read_manifest(tmp_path) == GOOD


def test_a_manifest_that_was_changed_by_hand_or_by_a_bad_disk_is_refused(tmp_path):
    written(tmp_path, changed(catalog="/another"))

    with pytest.raises(DamagedIndexError, match="its content has changed"):
        read_manifest(tmp_path)


def test_a_newer_format_is_refused_with_both_versions(tmp_path):
    written(tmp_path, changed(version=17, count="nobody knows what this means by then"))

    with pytest.raises(DamagedIndexError, match=r"format 17\b.*reads up to 2\b") as caught:
        read_manifest(tmp_path)
    assert caught.value.exit_code == 6
    assert "update" in caught.value.hint


@pytest.mark.parametrize("name", ["nothing there", "manifest.json/below/a/file"])
def test_where_there_is_no_manifest_there_is_no_index(tmp_path, name):
    (tmp_path / "manifest.json").write_text("{}")

    with pytest.raises(NoIndexError, match="no index in"):
        read_manifest(tmp_path / name)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"\xff\xfe not utf-8",
        b"not JSON",
        b"[]",
        b'"format"',
        b"null",
        b"[" * 100_000,
        b'{"format": "imgsearch", "version": 1, "files": ' + b"[" * 100_000,
        b"{}",
        {"format": "imgsearch"},
        {"format": "imgsearch", "version": 1},
        changed(format="imgsearch2"),
        changed(version=0),
        changed(version="1"),
        changed(version=None),
        changed(count=-1),
        changed(count=2.0),
        changed(count=True),
        changed(count="2"),
        changed(generation=None),
        changed(dims=[]),
        changed(projection_count=-5),
        changed(encoder=None),
        changed(encoder="handcrafted"),
        changed(encoder={}),
        changed(encoder={**GOOD.to_json()["encoder"], "dims": 0}),
        changed(encoder={**GOOD.to_json()["encoder"], "kind": "oracle"}),
        changed(encoder={**GOOD.to_json()["encoder"], "fingerprint": "../../../../etc"}),
        changed(encoder={**GOOD.to_json()["encoder"], "fingerprint": "0123456789ABCDEF"}),
        changed(encoder={**GOOD.to_json()["encoder"], "fingerprint": "0123456789abcde\n"}),
        changed(encoder={**GOOD.to_json()["encoder"], "fingerprint": 123}),
        changed(backend="annoy"),
        changed(backend={"name": "annoy", "trees": "many", "seed": 0}),
        changed(backend={"name": "annoy", "trees": 1, "seed": None}),
        *(
            changed(backend={"name": "annoy", "trees": 1, "seed": 0, "search_k": 9, **wrong})
            for wrong in (
                *({"search_k": -1}, {"search_k": 10**12}, {"trees": 10_001}, {"seed": 2**31}, {"name": "auto"}),
                *({"name": "../../x"}, {"name": None}, {"name": "faiss", "lists": 3, "probes": 4}),
            )
        ),
        changed(search={"backend": "best", "trees": None, "seed": 0, "target_recall": 0.9}),
        changed(search={"backend": "auto", "trees": None, "seed": 0, "target_recall": 0}),
        changed(search="fast"),
        changed(search={"backend": "auto", "trees": None, "seed": 0}),
        changed(search={"backend": "auto", "trees": 1.5, "seed": 0, "target_recall": 0.9}),
        changed(search={"backend": "auto", "trees": 1, "seed": 0, "target_recall": 2}),
        changed(measured={"queries": 1, "recall": 0.5, "p50_ms": 1, "p95_ms": 1}),
        changed(measured={"queries": 1, "recall": 1.5, "p50_ms": 1, "p95_ms": 1, "exact_p50_ms": 1}),
        changed(calibration=[]),
        *(
            changed(calibration={**CALIBRATION, "first": {"method": "platt", "scores": scores, "probabilities": rest}})
            for scores, rest in (
                *(([], []), ([0.1], []), ([0.1], [2]), ([2], [0.1]), (["a"], [0.1]), ([float("nan")], [0.1])),
                *(([0, 1], [0.2, 0.1]), ([1, 0], [0.1, 0.2]), ([0, 1], [0.1]), ("ab", [0, 1]), ([0], [True])),
            )
        ),
        changed(metadata=None),
        changed(metadata=[]),
        changed(files=[]),
        changed(files=None),
        changed(files={"a": None}),
        changed(files={"a": {"size": -1, "sha256": ""}}),
        changed(files={"a": {"size": 1}}),
        *(
            changed(files={name: {"size": 1, "sha256": ""}})
            for name in ("/etc/passwd", "../outside", "a/../../b", "a/..", "", "a//b", "a/", "a\\b", "a b", "a\n", "é")
        ),
        *({key: value for key, value in GOOD.to_json().items() if key != left_out} for left_out in ("files", "count")),
    ],
    ids=lambda data: str(data)[:40] if isinstance(data, bytes) else None,
)
def test_a_malformed_manifest_is_reported_as_damage(tmp_path, data):
    with pytest.raises(DamagedIndexError, match=r"manifest\.json is damaged"):
        read_manifest(written(tmp_path, data))


@pytest.mark.parametrize("key", ["size", "seed"])
def test_an_infinite_number_in_a_manifest_is_reported_as_damage(tmp_path, key):
    text = json.dumps(GOOD.to_json()).replace(f'"{key}": {128 if key == "size" else 0}', f'"{key}": 1e999')
    assert "1e999" in text

    with pytest.raises(DamagedIndexError, match=r"manifest\.json is damaged"):
        read_manifest(written(tmp_path, text.encode()))


# Without infinities, which have a test of their own.
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_a_manifest_with_any_one_value_replaced_is_understood_or_reported_as_damage(tmp_path_factory, data):
    document = GOOD.to_json()
    place = document
    key = data.draw(st.sampled_from(sorted(place)))
    while isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place)))
    place[key] = data.draw(json_values)
    folder = written(tmp_path_factory.mktemp("m"), document)

    try:
        manifest = read_manifest(folder)
    except DamagedIndexError:
        return
    assert isinstance(manifest, Manifest)
    assert all(".." not in name.split("/") and not name.startswith("/") for name in manifest.files)


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_a_manifest_with_any_bytes_changed_is_understood_or_reported_as_damage(tmp_path_factory, data):
    text = bytearray(json.dumps(GOOD.to_json()).encode())
    for position in data.draw(st.lists(st.integers(0, len(text) - 1), min_size=1, max_size=4)):
        text[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(text)) | st.just(len(text)))
    folder = written(tmp_path_factory.mktemp("m"), bytes(text[:cut]))

    try:
        assert isinstance(read_manifest(folder), Manifest)
    except DamagedIndexError as error:
        assert str(folder) in error.message  # noqa: PT017  # either outcome is right


def test_a_manifest_that_is_a_directory_is_reported_as_damage(tmp_path):
    (tmp_path / generations.MANIFEST).mkdir()

    with pytest.raises(DamagedIndexError, match="is damaged: not a regular file"):
        read_manifest(tmp_path)


HOLD = """
import sys
from pathlib import Path
from imgsearch.store.locking import writer_lock
with writer_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "index")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_second_writer_is_told_the_pid_of_the_first(tmp_path, holder):
    with (
        pytest.raises(LockedError, match=rf"\(pid {holder.pid} on .+\)") as caught,
        writer_lock(tmp_path / "index"),
    ):
        pass
    assert caught.value.exit_code == 7


def test_the_lock_is_free_again_when_its_holder_was_killed(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()

    with writer_lock(tmp_path / "index"):
        assert (tmp_path / "index" / generations.LOCK).read_text().startswith(f"pid {os.getpid()} on ")


def test_the_lock_is_free_again_after_an_error_under_it(tmp_path):
    with pytest.raises(ZeroDivisionError), writer_lock(tmp_path):
        _ = 1 / 0

    with writer_lock(tmp_path):
        assert (tmp_path / generations.LOCK).exists()


def test_a_lock_where_a_file_stands_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(OutputError, match="cannot write"), writer_lock(tmp_path / "file"):
        pass


def published(directory, generation, fingerprint, previous):
    with publishing.new_generation(directory, generation) as folder:
        (folder / "data").write_text(f"data of {generation}")
        encoder = directory / "encoders" / fingerprint
        encoder.mkdir(parents=True, exist_ok=True)
        (encoder / "spec.json").write_text("{}")
        manifest = replace(
            GOOD,
            generation=generation,
            fingerprint=fingerprint,
            files={
                f"{folder.name}/data": integrity.file_record(folder / "data"),
                f"encoders/{fingerprint}/spec.json": integrity.file_record(encoder / "spec.json"),
            },
        )
        publishing.publish(directory, manifest, previous)
    return manifest


def test_publishing_keeps_two_generations_and_the_encoders_they_use(tmp_path):
    manifest = None
    (tmp_path / "gen-000009").mkdir()  # left by a build that was interrupted
    (tmp_path / "gen-notes").mkdir()  # not ours
    (tmp_path / "encoders" / ("e" * 16 + ".tmp")).mkdir(parents=True)
    for generation, fingerprint in enumerate(["a" * 16, "a" * 16, "b" * 16, "b" * 16], start=1):
        manifest = published(tmp_path, generation, fingerprint, manifest)
        kept = {"gen-notes", *(f"gen-{number:06d}" for number in (generation - 1, generation) if number)}
        assert {path.name for path in tmp_path.glob("gen-*")} == kept
        assert read_manifest(tmp_path) == manifest
        if generation == 3:
            assert {path.name for path in (tmp_path / "encoders").iterdir()} == {"a" * 16, "b" * 16}
    assert {path.name for path in (tmp_path / "encoders").iterdir()} == {"b" * 16}
    assert not list(tmp_path.glob("*.tmp"))


def test_a_new_generation_begins_empty_whatever_was_left_under_its_number(tmp_path):
    (tmp_path / "gen-000004" / "deep").mkdir(parents=True)
    (tmp_path / "gen-000004" / "deep" / "stump").write_text("x")

    with publishing.new_generation(tmp_path, 4) as folder:
        assert list(folder.iterdir()) == []


def test_a_generation_that_fails_is_removed_but_not_once_it_is_published(tmp_path):
    manifest = published(tmp_path, 1, "a" * 16, None)

    def interrupted(work):
        with publishing.new_generation(tmp_path, 2) as folder:
            work(folder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(lambda folder: (folder / "data").write_text("half of it"))
    assert not (tmp_path / "gen-000002").exists()

    with pytest.raises(KeyboardInterrupt):
        interrupted(lambda _: publishing.publish(tmp_path, replace(manifest, generation=2), manifest))
    assert (tmp_path / "gen-000002").exists()
    assert read_manifest(tmp_path).generation == 2


def test_an_installed_encoder_replaces_a_damaged_one_whole(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "spec.json").write_text("good")
    damaged = tmp_path / "index" / "encoders" / "f"
    damaged.mkdir(parents=True)
    (damaged / "spec.json").write_text("bad")

    publishing.install_encoder(tmp_path / "index", "f", source, ("spec.json",))

    assert {path.name: path.read_text() for path in damaged.iterdir()} == {"spec.json": "good"}
    assert [path.name for path in damaged.parent.iterdir()] == ["f"]


def test_check_sizes_sees_missing_and_resized_files_and_reads_none(tmp_path):
    manifest = published(tmp_path, 1, "a" * 16, None)
    data = tmp_path / "gen-000001" / "data"
    integrity.check_sizes(tmp_path, manifest)
    data.write_text("DATA OF 1")
    integrity.check_sizes(tmp_path, manifest)
    data.write_text("data")
    with pytest.raises(DamagedIndexError, match="4 bytes, expected 9"):
        integrity.check_sizes(tmp_path, manifest)
    data.unlink()
    with pytest.raises(FileNotFoundError):
        integrity.check_sizes(tmp_path, manifest)


def test_check_content_sees_one_changed_byte_and_names_the_file(tmp_path):
    manifest = published(tmp_path, 1, "a" * 16, None)
    integrity.check_content(tmp_path, manifest, "gen-000001/data")
    (tmp_path / "gen-000001" / "data").write_text("data of 2")

    with pytest.raises(DamagedIndexError, match="gen-000001/data is damaged"):
        integrity.check_content(tmp_path, manifest, "gen-000001/data")
    with pytest.raises(DamagedIndexError, match="gen-000001/other"):
        integrity.check_content(tmp_path, manifest, "gen-000001/other")


def test_a_directory_that_cannot_be_written_is_an_output_error():
    # /proc is read-only even for root, whom permissions do not stop.
    with pytest.raises(OutputError, match="cannot write to"), writer_lock(Path("/proc/self/index")):
        pass


def test_an_index_and_the_rest_of_a_build_are_recognised_and_other_folders_are_not(tmp_path):
    for name in ("index", "rest", "other", "empty"):
        (tmp_path / name).mkdir()
    published(tmp_path / "index", 1, "a" * 16, None)
    (tmp_path / "rest" / generations.PARTIAL).write_bytes(b"")
    (tmp_path / "other" / generations.MANIFEST).write_text('{"format": "webapp"}')

    found = {name: generations.is_index(str(tmp_path / name)) for name in ("index", "rest", "other", "empty", "gone")}

    assert found == {"index": True, "rest": True, "other": False, "empty": False, "gone": False}


def test_a_fifo_called_like_a_manifest_is_not_read(tmp_path):
    os.mkfifo(tmp_path / generations.MANIFEST)
    descriptor = os.open(tmp_path / generations.MANIFEST, os.O_RDWR)  # so that whoever does read it need not wait
    try:
        os.write(descriptor, b'{"format": "imgsearch"'.ljust(8192))
        assert not generations.is_index(str(tmp_path))
    finally:
        os.close(descriptor)
