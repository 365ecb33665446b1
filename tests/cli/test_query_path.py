import json
import subprocess
import sys

HEAVY = {"tensorflow", "keras", "sklearn", "matplotlib", "scipy", "openvino_telemetry"}


def modules_of(*arguments: object) -> tuple[set[str], str]:
    """Run the program in a fresh process; return the modules it had imported at the end, and what it printed."""
    program = (
        "import sys\nfrom imgsearch.cli import main\ncode = main(sys.argv[1:])\n"
        "loaded = {name.partition('.')[0] for name, module in sys.modules.items() if module is not None}\n"
        "print(*sorted(loaded), file=sys.stderr)\nsys.exit(code)"
    )
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return set(done.stderr.split()), done.stdout


def test_the_first_query_after_a_build_imports_no_training_library(network, drawn, tmp_path):
    photo = tmp_path / "new.png"
    photo.write_bytes((drawn / "cups" / "cups-00.png").read_bytes() + b"\0")  # other bytes, the same image

    loaded, text = modules_of("query", photo, "--index", network, "--format", "json")

    assert "openvino" in loaded
    assert not loaded & HEAVY
    assert json.loads(text)[0]["hits"][0]["path"] == "cups/cups-00.png"


def test_a_query_for_a_catalog_image_loads_no_encoder(network, drawn):
    loaded, text = modules_of("query", drawn / "cups" / "cups-00.png", "--index", network, "--format", "json")

    assert not loaded & (HEAVY | {"openvino"})
    assert json.loads(text)[0]["hits"][0]["score"] == 1.0


# What decodes, embeds, draws; all that makes a start slow.
NOT_FOR_ITEMS = {"cv2", "openvino", "PIL", "rich.console", "rich.table", "multiprocessing", "asyncio", "platformdirs"}


def test_items_and_words_are_asked_with_without_what_decodes_or_embeds_images(network, drawn):
    program = (
        "import sys\nfrom imgsearch.cli import main\n"
        "for how in ('table', 'json', 'csv', 'paths'):\n    assert main([*sys.argv[1:], '--format', how]) == 0\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    for asked in (
        ["--item", "cups/cups-00.png", "--not", "cups/cups-01", "--diverse"],
        ["--text", "Tassen"],
        [drawn / "cups/cups-00.png"],
    ):
        command = [sys.executable, "-c", program, "query", *map(str, asked), "--index", str(network)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        loaded = set(done.stderr.split())

        assert "numpy" in loaded
        assert not loaded & (HEAVY | NOT_FOR_ITEMS)


def test_a_table_of_a_query_is_drawn_without_what_takes_longer_than_the_search(small, drawn):
    program = (
        "import sys\nfrom imgsearch.cli import main\nmain(sys.argv[1:])\n"
        "print(*sorted({'rich.console', 'rich.table', 'rich.text'} & sys.modules.keys()), file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, "query", str(drawn / "cups/cups-00.png"), "--index", str(small)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)

    assert ("cups/cups-00.png" in done.stdout, done.stderr) == (True, "\n")


def test_a_build_with_nothing_changed_loads_no_encoder(network, drawn):
    loaded, text = modules_of("build-index", drawn, "--index", network)

    assert not loaded & (HEAVY | {"openvino"})
    assert "nothing changed" in text


def test_help_imports_neither_numpy_nor_opencv():
    loaded, _ = modules_of("--help")

    assert not loaded & (HEAVY | {"numpy", "cv2", "rich", "openvino", "sqlite3"})


def test_an_index_still_answers_where_it_was_moved_to(network, drawn, tmp_path, imgsearch):
    import shutil

    shutil.copytree(network, tmp_path / "moved")
    photo = tmp_path / "new.png"
    photo.write_bytes((drawn / "rings" / "rings-01.png").read_bytes() + b"\0")

    done = imgsearch("query", photo, "--index", "moved", "--format", "paths", "-k", 1, env={"PATH": "/usr/bin:/bin"})

    assert done.stdout == "rings/rings-01.png\n"
