"""The program over a catalog of bad, odd and hostile files: what becomes of each, and of the run."""

import contextlib
import json
import os
import pickle
import re
import socket
import stat
import struct
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

GIB = 1 << 30
SIXTEEN_BITS = 257
SUFFIXES = {
    "jpeg": ".jpg",
    "png": ".png",
    "gif": ".gif",
    "bmp": ".bmp",
    "webp": ".webp",
    "tiff": ".tif",
    "avif": ".avif",
}


def good_images(make) -> dict[str, bytes]:
    """One image of each format, with grain, so that there is much in the file to damage."""
    image = make.grained(1)
    return {
        **{kind: make.encoded(suffix, image) for kind, suffix in SUFFIXES.items() if kind not in ("gif", "webp")},
        "progressive-jpeg": make.encoded(".jpg", image, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "webp": make.encoded(".webp", image, cv2.IMWRITE_WEBP_QUALITY, 90),
        "lossless-webp": make.encoded(".webp", image, *make.LOSSLESS_WEBP),
        "big-endian-tiff": make.tiff(image, order=">"),
        "gif": make.fields_gif(1),
    }


def suffix_of(kind: str) -> str:
    return SUFFIXES[kind.rpartition("-")[2]]


class TouchesAFile:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def what_is_nearly_nothing(make) -> dict[str, tuple[str, bytes]]:
    signatures = {
        "s.jpg": b"\xff\xd8\xff",
        "s.png": b"\x89PNG\r\n\x1a\n",
        "s.gif": b"GIF89a",
        "s.webp": b"RIFF\0\0\0\0WEBP",
        "little.tif": b"II*\0",
        "big.tif": b"MM\0*",
        "little-big.tif": b"II+\0",
        "big-big.tif": b"MM\0+",
        "s.avif": b"\0\0\0\x1cftypavif",
    }
    return {
        "nothing/empty.jpg": ("empty", b""),
        "nothing/one-byte.jpg": ("not_an_image", b"\xff"),
        "nothing/nuls.png": ("not_an_image", bytes(5000)),
        "nothing/signature.bmp": ("not_an_image", b"BM"),
        "nothing/signature.heic": ("unsupported_format", b"\0\0\0\x1cftypheic"),
        **{f"nothing/signature-{name}": ("corrupt", data) for name, data in signatures.items()},
    }


def what_was_cut_short(make) -> dict[str, tuple[str, bytes]]:
    cut = {
        f"cut/{kind}-{share:.0%}{suffix_of(kind)}": ("corrupt", make.truncated(data, share))
        for kind, data in good_images(make).items()
        for share in (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
    }
    jpegs = ("jpeg", "progressive-jpeg")
    return cut | {f"cut/{kind}-no-end.jpg": ("corrupt", good_images(make)[kind][:-2]) for kind in jpegs}


def what_was_damaged(make) -> dict[str, tuple[str, bytes]]:
    good = good_images(make)
    jpeg = good["jpeg"]
    certain = ("png", "avif")  # the one has checksums, the other breaks
    found = {
        f"damaged/{kind}-{how}{suffix_of(kind)}": ("corrupt" if kind in certain else "corrupt|indexed", data)
        for kind, whole in good.items()
        for how, data in (("zeroed", make.zeroed(whole)), *((f"bits-{n}", make.flipped(whole, n)) for n in range(3)))
    }
    return found | {
        "damaged/gap.jpg": ("corrupt", make.with_a_gap(jpeg)),
        "damaged/bad-code.jpg": ("corrupt", make.with_a_bad_code(jpeg)),
        "damaged/tail.jpg": ("indexed", jpeg + b"trailing text"),
    }


def what_has_another_name(make) -> dict[str, tuple[str, bytes]]:
    good = good_images(make)
    names = {"jpeg": "a.png", "png": "b.jpg", "gif": "c.bmp", "bmp": "d.gif", "webp": "e.tiff", "tiff": "f.webp"}
    names |= {"avif": "g.heic", "lossless-webp": "h.svg", "progressive-jpeg": "I.PSD"}
    return {f"called/{name}": ("indexed", good[kind]) for kind, name in names.items()}


def what_is_no_image(make) -> dict[str, tuple[str, bytes]]:
    array = b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    texts = {
        "html.jpg": b"<!DOCTYPE html><html><body><img src='http://example.org/x.jpg'>404</body></html>",
        "json.png": b'{"error": "not found"}',
        "pointer.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "pdf.tif": b"%PDF-1.7\n1 0 obj\n<</OpenAction <</S /Launch /F (touch pwned)>>>>\nendobj\n",
        "elf.bmp": b"\x7fELF\x02\x01\x01" + bytes(100),
        "script.jpg": b"#!/bin/sh\ntouch pwned\n",
        "pickle.jpg": pickle.dumps(TouchesAFile()),
        "old-pickle.png": pickle.dumps(TouchesAFile(), protocol=0),
        "array.png": array.ljust(128) + pickle.dumps(TouchesAFile()),
        "zip.webp": b"PK\x03\x04" + bytes(100),
        "postscript.gif": b"%!PS\n(pwned) (w) file closefile\n",
        "text.avif": b"push graphic-context\nfill 'url(https://example.org/x.jpg\"|touch \"pwned)'\n",
    }
    return {f"texts/{name}": ("not_an_image", data) for name, data in texts.items()}


def what_asks_for_too_much(make) -> dict[str, tuple[str, bytes]]:
    return {f"bombs/{name}": (cause, data) for name, (cause, data) in make.bombs().items()}


def what_is_turned(make) -> dict[str, tuple[str, bytes]]:
    """In each format, the same image with each orientation."""
    image = make.smooth(3, 90, 120)
    suffixes = (".jpg", ".png", ".webp", ".tif", ".avif")
    turned = {
        f"same/turned/{orientation}{suffix}": ("indexed", make.turned(suffix, image, orientation))
        for suffix in suffixes
        for orientation in range(1, 9)
    }
    broken = {
        f"same/turned/{name}{suffix}": ("indexed", make.with_exif(suffix, image, content, *make.FINE_JPEG))
        for suffix in (".jpg", ".png", ".webp")
        for name, content in make.BROKEN_EXIF.items()
    }
    plain = make.tiff(image)
    return {
        **turned,
        **broken,
        "same/turned/next-is-itself.tif": ("indexed", plain[:-4] + plain[4:8]),
        "same/turned/reference.png": ("indexed", make.encoded(".png", image)),
        "sideways.png": ("indexed", make.encoded(".png", make.stored(image, 6))),
    }


def every_kind(make) -> dict[str, tuple[str, bytes]]:
    """In each folder, the same image in different kinds of file."""
    color, other, soft = make.painted(4), make.painted(5), make.smooth(6)
    rgb = color[:, :, ::-1]
    gray = np.ascontiguousarray(color[:, :, 1])
    alpha = np.where(np.arange(make.SIDE) < 40, 0, 255).astype(np.uint8) * np.ones((make.SIDE, 1), np.uint8)
    cut_out = np.dstack([np.where(alpha[:, :, None] == 0, other, soft), alpha])  # other colors hide under it
    shown = np.where(alpha[:, :, None] == 0, 255, soft).astype(np.uint8)
    one_bit = ((gray > 128) * 255).astype(np.uint8)
    bits = b"".join(b"\0" + np.packbits(row > 0).tobytes() for row in one_bit)
    colors, numbers = np.unique(rgb.reshape(-1, 3), axis=0, return_inverse=True)
    numbers = numbers.reshape(gray.shape).astype(np.uint8)
    palette = make.chunk(b"PLTE", colors.tobytes())
    inks = np.random.default_rng(6).integers(0, 256, (12, 12, 4)).astype(np.uint8)
    printed = np.rint(inks[:, :, :3] * (inks[:, :, 3:] / 255)).astype(np.uint8)[:, :, ::-1]
    side = make.SIDE
    kinds = {
        "color/reference.png": make.encoded(".png", color),
        "color/16-bit.png": make.encoded(".png", color.astype(np.uint16) * SIXTEEN_BITS),
        "color/16-bit.tif": make.tiff(color.astype(np.uint16) * SIXTEEN_BITS),
        "color/big-endian.tif": make.tiff(color.astype(np.uint16) * SIXTEEN_BITS, order=">"),
        "color/interlaced.png": make.interlaced_png(rgb),
        "color/palette.png": make.png(side, side, 8, 3, make.rows(numbers), palette),
        "color/palette.gif": make.gif(numbers, palette=colors),
        "color/animated.gif": make.gif(numbers, (numbers + 5) % 12, palette=colors),
        "soft/reference.png": make.encoded(".png", soft),
        "soft/animated.png": make.animation(".png", soft, other),
        "soft/animated.webp": make.animation(".webp", soft, other),
        "soft/animated.avif": make.animation(".avif", soft, other),
        "soft/10-bit.avif": make.deep_avif(soft, 10),
        "soft/12-bit.avif": make.deep_avif(soft, 12),
        "gray/reference.png": make.encoded(".png", gray),
        "gray/gray.jpg": make.encoded(".jpg", gray, *make.FINE_JPEG),
        "gray/16-bit.png": make.encoded(".png", gray.astype(np.uint16) * SIXTEEN_BITS),
        "gray/16-bit.tif": make.tiff(gray.astype(np.uint16) * SIXTEEN_BITS),
        "gray/alpha.png": make.png(side, side, 8, 4, make.rows(np.dstack([gray, np.full_like(gray, 255)]))),
        "one-bit/reference.png": make.encoded(".png", one_bit),
        "one-bit/one-bit.png": make.png(side, side, 1, 0, bits),
        "cut-out/reference.png": make.encoded(".png", shown),
        "cut-out/alpha.png": make.encoded(".png", cut_out),
        "cut-out/16-bit.png": make.encoded(".png", cut_out.astype(np.uint16) * SIXTEEN_BITS),
        "cut-out/alpha.webp": make.encoded(".webp", cut_out, *make.LOSSLESS_WEBP),
        "cut-out/alpha.avif": make.encoded(".avif", cut_out, *make.FINE_AVIF),
        "inks/reference.png": make.encoded(".png", np.kron(printed, np.ones((8, 8, 1), np.uint8))),
        "inks/cmyk.jpg": make.cmyk_jpeg(inks),
    }
    return {f"same/{name}": ("indexed", data) for name, data in kinds.items()}


def what_has_few_pixels(make) -> dict[str, tuple[str, bytes]]:
    shapes = {"1x1": (1, 1), "1x60000": (60_000, 1), "60000x1": (1, 60_000)}
    small = {
        f"tiny/{name}{suffix}": make.encoded(suffix, make.painted(7, *shape))
        for name, shape in shapes.items()
        for suffix in (".jpg", ".png", ".bmp", ".tif")
    }
    small["tiny/1x1.webp"] = make.encoded(".webp", make.painted(7, 1, 1))
    small["tiny/1000000x1.png"] = make.encoded(".png", make.painted(7, 1, 1_000_000))
    small["tiny/1x1000000.png"] = make.encoded(".png", make.painted(7, 1_000_000, 1))
    none = {
        "tiny/0x0.png": make.png(0, 0),
        "tiny/0x5.bmp": b"BM" + struct.pack("<IHHIIiiHH", 154, 0, 0, 54, 40, 0, 5, 1, 24) + bytes(124),
        "tiny/0x0.gif": b"GIF89a" + bytes(7) + b",\0\0\0\0\0\0\0\0\0\2\0;",
    }
    return {name: ("indexed", data) for name, data in small.items()} | {
        name: ("corrupt", data) for name, data in none.items()
    }


def what_nobody_here_reads(make) -> dict[str, tuple[str, bytes]]:
    laughs = "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
    files = {
        "photo.heic": b"\0\0\0\x18ftypheic" + bytes(100),
        "photo.heif": b"\0\0\0\x18ftypmif1" + bytes(100),
        "heic.jpg": b"\0\0\0\x18ftypheix" + bytes(100),
        "film.png": b"\0\0\0\x18ftypisom" + bytes(100),
        "codestream.jxl": b"\xff\x0a" + bytes(100),
        "container.jxl": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100),
        "photo.jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
        "photo.j2k": b"\xff\x4f\xff\x51" + bytes(100),
        "layers.psd": b"8BPS\0\x01" + bytes(100),
        "plain.svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "entity.svg": b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
        "laughs.svg": f'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "ha">{laughs}]><svg>&j;</svg>'.encode(),
    }
    return {f"others/{name}": ("unsupported_format", data) for name, data in files.items()}


def contents(make) -> dict[str, tuple[str, bytes]]:
    """What each file is to be called, what should become of it, and what is in it."""
    groups = [
        *(what_is_nearly_nothing, what_was_cut_short, what_was_damaged, what_has_another_name, what_is_no_image),
        *(what_asks_for_too_much, what_is_turned, every_kind, what_has_few_pixels, what_nobody_here_reads),
    ]
    return {path: fate for group in groups for path, fate in group(make).items()}


def lay_out_images(folder: Path, files: dict[str, tuple[str, bytes]]) -> dict[str, str]:
    for path, (_, data) in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return {path: outcome for path, (outcome, _) in files.items()}


def lay_out_what_is_no_file(folder: Path, image: bytes) -> dict[str, str]:
    """Make what only looks like a file, or is larger than one should be."""
    (folder / "dir.jpg").mkdir()
    (folder / "dir.jpg/inner.jpg").write_bytes(image)
    os.mkfifo(folder / "fifo.jpg")
    with contextlib.chdir(folder), socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.png")  # by its name alone: an address has 108 bytes at most
    with (folder / "sparse.png").open("wb") as file:
        file.truncate(6 * GIB)
    found = {"dir.jpg/inner.jpg": "indexed", "sparse.png": "too_many_bytes"}
    found |= dict.fromkeys(("fifo.jpg", "socket.png"), "not_regular_file")
    with contextlib.suppress(PermissionError):  # not everywhere may root do this
        os.mknod(folder / "device.jpg", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        found["device.jpg"] = "not_regular_file"
    return found


def lay_out_links(folder: Path) -> None:
    """Make ten links; none is to be followed."""
    links = {
        "zero.jpg": "/dev/zero",
        "one.jpg": "two.jpg",
        "two.jpg": "one.jpg",
        "self.jpg": "self.jpg",
        "gone.jpg": "nowhere.jpg",
        "hosts.jpg": "/etc/hosts",
        "again.jpg": "dir.jpg/inner.jpg",
        "up": "..",
        "here": ".",
        "root": "/",
    }
    (folder / "links").mkdir()
    for name, target in links.items():
        (folder / "links" / name).symlink_to(target)


def lay_out_what_is_hidden(folder: Path, image: bytes) -> None:
    """Make five hidden entries and four without an image's name."""
    for name in (".hidden.jpg", "._hidden.jpg", ".DS_Store", "@eaDir/thumb.jpg", ".git/object.png"):
        (folder / "hidden" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "hidden" / name).write_bytes(image)
    for name in ("Thumbs.db", "notes.txt", "jpg", "photo.jpg.part"):
        (folder / "hidden" / name).write_bytes(image)


LEFT_OUT = {"hidden": 5, "link": 10, "other": 4}


@pytest.fixture(scope="module")
def catalog(open_folder, make) -> SimpleNamespace:
    """A folder with all of this in it, and what should become of each file."""
    folder = open_folder / "catalog"
    image = make.jpeg(8)
    fates = lay_out_images(folder, contents(make))
    fates |= lay_out_what_is_no_file(folder, image)
    lay_out_links(folder)
    lay_out_what_is_hidden(folder, image)
    (folder / "unreadable.jpg").write_bytes(image)
    (folder / "unreadable.jpg").chmod(0)
    unreadable = {True: "unreadable", False: "indexed"}
    return SimpleNamespace(
        folder=folder, fates={bound: fates | {"unreadable.jpg": fate} for bound, fate in unreadable.items()}
    )


@pytest.fixture(scope="module")
def built(catalog, open_folder, run, report, most_bound) -> SimpleNamespace:
    """The program over that folder, three times: at first, again, and with --strict."""
    who = most_bound
    place = open_folder / who.name
    place.mkdir()
    if "user" in who.options:
        os.chown(place, who.options["user"], who.options["group"])

    def build(*options: str) -> SimpleNamespace:
        before = published(place / "idx")
        command = ("build-index", catalog.folder, "--index", "idx", "--report", "report.json", *options)
        done = run(*command, cwd=place, who=who, process=True)
        changed = published(place / "idx") != before
        return SimpleNamespace(run=done, report=report(place / "report.json"), changed=changed)

    first = build("--backbone", "handcrafted", "--backend", "exact")
    builds = SimpleNamespace(first=first, second=build(), strict=build("--strict"))
    return SimpleNamespace(place=place, who=who, fates=catalog.fates[who.bound], **vars(builds))


def published(index: Path) -> dict[str, tuple[int, bytes]]:
    """What an index holds, and when each file of it was written."""
    files = (path for path in index.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_every_file_is_indexed_or_rejected_for_its_own_cause(built, outcomes):
    found = outcomes(built.place / "idx")

    surprises = {path: fate for path, fate in found.items() if fate not in built.fates.get(path, "").split("|")}
    assert surprises == {}
    assert sorted(found) == sorted(built.fates)


def test_the_first_run_exits_3_the_second_0_and_a_strict_one_3_again(built):
    assert [one.run.code for one in (built.first, built.second, built.strict)] == [3, 0, 3]
    assert [one.report["exit_code"] for one in (built.first, built.second, built.strict)] == [3, 0, 3]


def test_a_second_run_changes_nothing(built):
    assert [one.changed for one in (built.first, built.second, built.strict)] == [True, False, False]
    assert [one.report["published"] for one in (built.first, built.second, built.strict)] == [True, False, False]
    assert built.second.report["rejected"] == built.first.report["rejected"]
    assert built.second.report["counts"]["rejected_new"] == 0


def test_the_report_names_every_rejected_file_and_counts_what_was_left_out(built, outcomes):
    rejected = {path: fate for path, fate in outcomes(built.place / "idx").items() if fate != "indexed"}
    counts = built.first.report["counts"]

    assert {reject["path"]: reject["cause"] for reject in built.first.report["rejected"]} == rejected
    assert (counts["seen"], counts["rejected_new"]) == (len(built.fates), len(rejected))
    assert counts["left_out"] == LEFT_OUT


def test_no_traceback_is_seen_and_each_new_reject_is_named_at_most_once(built):
    lines = built.first.run.err.decode().splitlines()

    assert all(line.startswith("imgsearch: rejected ") for line in lines)
    assert len(lines) == len(set(lines)) <= len(built.first.report["rejected"])
    assert built.second.run.err == b""


def test_the_rejected_files_are_listed_by_info(built, run):
    listed = run("info", "--index", "idx", "--rejected", cwd=built.place, who=built.who)
    as_json = run("info", "--index", "idx", "--rejected", "--format", "json", cwd=built.place, who=built.who)

    expected = [[reject["cause"], reject["path"]] for reject in built.first.report["rejected"]]
    assert [re.split(r" {2,}", line)[::2] for line in listed.out.decode().splitlines()] == expected
    assert [[reject["cause"], reject["path"]] for reject in json.loads(as_json.out)] == expected
    assert (listed.code, as_json.code) == (0, 0)


def test_no_decoder_takes_more_memory_than_its_limit(built):
    workers = built.first.run.workers.values()

    assert {(worker["limit"], worker["core"], worker["oom"]) for worker in workers} == {(2 * GIB, 0, 1000)}
    assert max(worker["peak"] for worker in workers) <= 2 * GIB
    assert built.first.report["peak_rss_bytes"] < GIB


def test_nothing_in_a_file_or_its_name_is_executed(built, catalog):
    names = [name for _, _, files in os.walk(catalog.folder.parent) for name in files]

    assert "report.json" in names
    assert [name for name in names if name.startswith("pwned")] == []


SAME = {"turned": 66, "color": 8, "soft": 6, "gray": 5, "one-bit": 2, "cut-out": 5, "inks": 2}


# What AVIF loses of a soft image is fine texture, and the encoder of these tests looks at that.
SMOOTHED = {f"same/soft/{name}.avif" for name in ("10-bit", "12-bit", "animated")}


def test_the_same_image_in_every_kind_of_file_has_the_same_embedding(built, catalog, run):
    references = [catalog.folder / f"same/{folder}/reference.png" for folder in SAME]

    done = run("query", "--index", "idx", *references, "-k", 1000, "--format", "jsonl", cwd=built.place, who=built.who)

    answers = [json.loads(line) for line in done.out.splitlines()]
    for folder, answer in zip(SAME, answers, strict=True):
        scores = {hit["path"]: hit["score"] for hit in answer["hits"]}
        same = {path: score for path, score in scores.items() if path.startswith(f"same/{folder}/")}
        assert len(same) == SAME[folder]
        least = {path: 0.94 if path in SMOOTHED else 0.98 for path in same}
        assert {path: score for path, score in same.items() if score <= least[path]} == {}
        assert all(score < 0.94 for path, score in scores.items() if path.startswith("same/") and path not in same)
        assert scores["sideways.png"] < 0.94


@pytest.mark.slow
def test_the_default_encoder_too_sees_the_upright_image(make, run, tmp_path):
    lay_out_images(tmp_path, {f"catalog/{path}": fate for path, fate in what_is_turned(make).items()})
    cache = {"IMGSEARCH_CACHE": os.environ["IMGSEARCH_CACHE"]}
    reference = tmp_path / "catalog/same/turned/reference.png"

    built = run("build-index", "catalog", "--index", "idx", cwd=tmp_path, environment=cache, timeout=300)
    asked = run("query", "--index", "idx", reference, "-k", 1000, "--format", "jsonl", cwd=tmp_path)

    scores = {hit["path"]: hit["score"] for hit in json.loads(asked.out)["hits"]}
    sideways = scores.pop("sideways.png")
    assert (built.code, len(scores)) == (0, SAME["turned"])
    assert min(scores.values()) > 0.98 > sideways


def test_each_file_as_the_query_is_answered_or_refused_in_one_line(built, catalog, outcomes, run):
    found = outcomes(built.place / "idx")
    paths = [f"{catalog.folder}/{path}" for path in found]
    command = ("query", "--index", "idx", "-0", "-", "--format", "jsonl")

    done = run(*command, cwd=built.place, who=built.who, told=b"\0".join(map(os.fsencode, paths)))

    answers = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 4
    assert [answer["query"] for answer in answers] == paths
    for answer, (path, fate) in zip(answers, found.items(), strict=True):
        assert ("error" in answer, path) == (fate != "indexed", path)
        if fate == "indexed":
            assert answer["hits"][0]["score"] > 0.999
        else:
            assert answer["error"]["code"] == 4
            assert answer["error"]["message"].isprintable()


@pytest.mark.parametrize("of_a_cause", [1, pytest.param(15, marks=pytest.mark.slow)])
def test_a_query_exits_4_for_a_bad_file_and_0_for_a_good_one(built, catalog, outcomes, run, of_a_cause):
    chosen: dict[str, list[str]] = {}
    for path, fate in outcomes(built.place / "idx").items():
        if len(chosen.setdefault(fate, [])) < of_a_cause:
            chosen[fate].append(path)

    def ask(path: str) -> tuple[int, int, bool]:
        who = {"who": built.who} if built.fates[path] == "unreadable" else {}
        done = run("query", "--index", "idx", catalog.folder / path, cwd=built.place, **who)
        return done.code, len(done.err.splitlines()), bool(done.out)

    for fate, paths in chosen.items():
        expected = (0, 0, True) if fate == "indexed" else (4, 1, False)
        assert {path: ask(path) for path in paths} == dict.fromkeys(paths, expected)


def what_takes_memory_all_the_same(make) -> dict[str, tuple[str, bytes]]:
    """Below the limit of pixels, or not counted by it."""
    width, height = 13_000, 13_000
    bits = bytes(1 + width // 8 + 1) * height
    signature = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
    packed = make.zlib_bomb(1024)
    comments = make.chunk(b"zTXt", b"Comment\0\0" + packed) + make.chunk(b"iTXt", b"Title\0\1\0\0\0" + packed)
    profile = make.chunk(b"iCCP", b"profile\0\0" + packed)
    rows = make.rows(make.painted(2, 4, 4))
    return {
        "memory/just-below.png": ("indexed|bad_embedding", make.png(width, height, 1, 0, bits)),
        "memory/chunk.png": ("corrupt|too_large", signature + struct.pack(">I", 0x3FFFFFFF) + b"IDAT" + bytes(40)),
        "memory/header.png": ("corrupt|too_large", signature + struct.pack(">I", 0x3FFFFFFF) + b"IHDR" + header),
        "memory/ztxt.png": ("indexed", make.png(4, 4, rows=rows, extra=comments)),
        "memory/iccp.png": ("indexed", make.png(4, 4, rows=rows, extra=profile)),
        "memory/data.png": ("indexed|corrupt", make.png(4, 4, packed=make.zlib_bomb(256))),
    }


@pytest.mark.parametrize("scans", [0, pytest.param(12_000, marks=pytest.mark.slow)])
def test_what_takes_memory_or_time_costs_itself_alone(make, run, report, outcomes, tmp_path, scans):
    fates = what_takes_memory_all_the_same(make)
    fates |= {f"plain/{number}.jpg": ("indexed", make.jpeg(number)) for number in range(20)}
    if scans:
        fates["deep.png"] = ("out_of_memory", make.png(11_000, 11_000, 16, 6, packed=make.zlib_bomb(924)))
        fates |= {f"bomb-{number}.jpg": ("timeout", make.scan_bomb(scans, seed=number)) for number in range(2)}
    expected = lay_out_images(tmp_path / "heavy", fates)

    done = run(
        *("build-index", "heavy", "--index", "idx", "--backbone", "handcrafted", "--backend", "exact"),
        *("--report", "report.json"),
        cwd=tmp_path,
        process=True,
    )

    found = outcomes(tmp_path / "idx")
    assert done.code == 3
    assert {path: fate for path, fate in found.items() if fate not in expected[path].split("|")} == {}
    assert sorted(found) == sorted(expected)
    assert report(tmp_path / "report.json")["seconds"]["embed"] < (75 if scans else 31)
    assert {worker["limit"] for worker in done.workers.values()} == {2 * GIB}
    assert GIB < max(worker["peak"] for worker in done.workers.values()) <= 2 * GIB
