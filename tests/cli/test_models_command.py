import json
import os
import re
import subprocess
import sys

import pytest

from imgsearch.encoders.table import TABLE


@pytest.fixture
def alone(tmp_path):
    """An environment without weights of Keras, in which nothing may be downloaded."""
    return os.environ | {
        "KERAS_HOME": str(tmp_path / "keras"),
        "IMGSEARCH_CACHE": str(tmp_path / "cache"),
        "IMGSEARCH_OFFLINE": "1",
    }


def test_the_list_looks_as_it_did(imgsearch, alone, snapshot):
    done = imgsearch("models", env=alone)

    assert (done.returncode, done.stderr) == (0, "")
    snapshot("models.txt", re.sub(r"here, /\S+\)", "here, FILE)", done.stdout))


def test_every_encoder_has_its_line_and_one_is_the_default(imgsearch, alone):
    lines = imgsearch("models", env=alone).stdout.splitlines()

    assert [line.split()[0].rstrip("*") for line in lines[:-1]] == list(TABLE)
    assert [line.split()[0] for line in lines[:-1] if "*" in line] == ["lite0-retrieval*"]
    assert max(map(len, lines)) < 300


def test_json_says_of_each_what_a_script_needs(imgsearch, alone, tmp_path):
    found = {
        encoder["name"]: encoder for encoder in json.loads(imgsearch("models", "--format", "json", env=alone).stdout)
    }

    assert list(found) == list(TABLE)
    vgg16 = found["vgg16"]
    assert vgg16["file"] == str(tmp_path / "keras/models/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5")
    assert (vgg16["here"], vgg16["default"], vgg16["dims"], vgg16["megabytes"]) == (False, False, 512, 59)
    assert (found["handcrafted"]["here"], found["handcrafted"]["file"]) == (True, None)
    assert found["lite0-retrieval"]["default"]
    assert set(vgg16) == {
        *("name", "size", "dims", "weights", "megabytes", "file", "here", "licence", "about", "default"),
    }


def test_weights_that_keras_has_are_here(imgsearch, alone, tmp_path):
    (tmp_path / "keras/models").mkdir(parents=True)
    (tmp_path / "keras/models" / TABLE["resnet50"].application.keras_file).write_bytes(b"weights")

    found = json.loads(imgsearch("models", "--format", "json", env=alone).stdout)

    assert [encoder["name"] for encoder in found if encoder["here"] and encoder["name"] in ("vgg16", "resnet50")] == [
        "resnet50"
    ]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["fetch"], 2, "fetch needs names"),
        (["list", "vgg16"], 2, "list takes none"),
        (["remove"], 2, ""),
        (["fetch", "vgg"], 8, "did you mean"),
        (["fetch", "handcrafted+vgg16"], 8, "nothing to fetch"),
        (["fetch", "vgg16"], 8, "IMGSEARCH_OFFLINE forbids"),
        (["fetch", "handcrafted", "resnet50"], 8, "resnet50"),
    ],
)
def test_what_cannot_be_done_has_its_exit_code_and_a_hint(imgsearch, alone, arguments, exit_code, said):
    done = imgsearch("models", *arguments, env=alone)

    assert (done.returncode, done.stdout) == (exit_code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert said == "" or "hint: " in done.stderr


def test_fetching_what_has_no_weights_is_done(imgsearch, alone):
    done = imgsearch("models", "fetch", "handcrafted", "--format", "json", env=alone)

    assert [encoder["name"] for encoder in json.loads(done.stdout)] == ["handcrafted"]


def test_an_encoder_without_its_weights_is_refused_before_the_catalog_is_read(imgsearch, alone, catalog):
    done = imgsearch("build-index", catalog, "--index", "idx", "--backbone", "vgg16", env=alone)

    assert done.returncode == 8
    assert "hint: copy Keras' file to " in done.stderr
    assert "--weights" in done.stderr


def test_listing_imports_nothing_heavy():
    program = (
        "import sys\nfrom imgsearch.cli import main\nmain(['models'])\n"
        "print({'tensorflow', 'keras', 'sklearn', 'openvino'} & set(sys.modules), file=sys.stderr)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stderr == "set()\n"
