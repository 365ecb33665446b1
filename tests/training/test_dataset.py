import os
from pathlib import Path

import numpy as np
import pytest

from imgsearch.errors import UsageError
from imgsearch.images.policy import FilePolicy
from imgsearch.images.scan import Reject
from imgsearch.training.dataset import hold_out, read_dataset, require_enough


def make(folder: Path, *names: str) -> Path:
    """Make files that have an image's name; a dataset is read without opening any."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"image")
    return folder


def refused(*arguments, **options) -> str:
    with pytest.raises(UsageError) as refusal:
        read_dataset(*arguments, **options)
    return refusal.value.message


def test_each_folder_is_a_class_whatever_lies_deeper_in_it(tmp_path):
    make(tmp_path, "shoes/a.png", "shoes/red/b.jpg", "hats/c.webp", "hats/readme.txt", ".hidden/d.png")

    dataset = read_dataset(tmp_path)

    assert dataset.classes == ("hats", "shoes")
    assert dataset.paths == ("hats/c.webp", "shoes/a.png", "shoes/red/b.jpg")
    assert dataset.labels.tolist() == [0, 1, 1]
    assert not dataset.held_out.any()


def test_train_and_val_each_have_a_folder_per_class_and_val_is_held_out(tmp_path):
    make(tmp_path, "train/shoes/a.png", "train/hats/b.png", "val/shoes/c.png", "val/hats/deep/d.png", "test/x.png")

    dataset = read_dataset(tmp_path)

    assert dataset.classes == ("hats", "shoes")
    assert dict(zip(dataset.paths, dataset.held_out.tolist(), strict=True)) == {
        "train/hats/b.png": False,
        "train/shoes/a.png": False,
        "val/hats/deep/d.png": True,
        "val/shoes/c.png": True,
    }
    assert dataset.labels.tolist() == [0, 1, 0, 1]


def test_val_need_not_have_every_class(tmp_path):
    make(tmp_path, "train/shoes/a.png", "train/hats/b.png", "val/shoes/c.png")

    dataset = read_dataset(tmp_path)

    require_enough(dataset, 2)
    assert dataset.validation_rows.tolist() == [2]


def test_a_table_names_the_classes_of_images_wherever_they_lie(tmp_path):
    folder = make(tmp_path / "photos", "1.png", "deep/2.png", "left-out.png")
    table = tmp_path / "labels.csv"
    table.write_text("\ufeffnote,path,label\nx,./1.png,shoe\ny,deep/2.png,hat\n", encoding="utf-8")

    dataset = read_dataset(folder, labels=table)

    assert (dataset.classes, dataset.paths) == (("hat", "shoe"), ("1.png", "deep/2.png"))
    assert dataset.labels.tolist() == [1, 0]


def test_a_table_may_be_what_a_spreadsheet_writes(tmp_path):
    folder = make(tmp_path / "photos", "1.png", "2.png")
    table = tmp_path / "labels.csv"
    table.write_text("path;label;\n1.png;Hüte;\n2.png;Schuhe;\n;;\n;;\n", encoding="utf-16")

    assert read_dataset(folder, labels=table).classes == ("Hüte", "Schuhe")


def test_names_that_are_not_utf_8_survive_in_folders_and_in_tables(tmp_path):
    folder = make(tmp_path / "photos", "caf\udce9/a\udcff.png", "bar/b.png")
    table = tmp_path / "labels.csv"
    table.write_bytes(b"path,label\ncaf\xe9/a\xff.png,caf\xe9\nbar/b.png,bar\n")

    of_folders, of_table = read_dataset(folder), read_dataset(folder, labels=table)

    assert of_folders.classes == of_table.classes == ("bar", "caf\udce9")
    assert sorted(of_folders.paths) == sorted(of_table.paths) == ["bar/b.png", "caf\udce9/a\udcff.png"]


def test_links_are_left_alone_unless_they_are_to_be_followed(tmp_path):
    make(tmp_path / "elsewhere", "c.png")
    folder = make(tmp_path / "photos", "a/1.png", "b/2.png")
    (folder / "c").symlink_to(tmp_path / "elsewhere")

    assert read_dataset(folder).classes == ("a", "b")
    assert read_dataset(folder, policy=FilePolicy(follow_links=True)).classes == ("a", "b", "c")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_a_folder_that_cannot_be_looked_into_is_named_as_rejected(tmp_path):
    make(tmp_path, "a/1.png", "a/deep/2.png", "b/3.png")
    (tmp_path / "a/deep").chmod(0)

    dataset = read_dataset(tmp_path)

    (tmp_path / "a/deep").chmod(0o700)
    assert dataset.rejected == (Reject("a/deep", "unreadable", ""),)


def test_a_dataset_that_is_missing_or_a_file_is_refused(tmp_path):
    make(tmp_path, "a.png")

    assert "found nothing" in refused(tmp_path / "missing")
    assert "found a file" in refused(tmp_path / "a.png")


def test_an_empty_class_is_refused_by_name(tmp_path):
    make(tmp_path, "shoes/a.png", "hats/readme.txt")

    assert "expected images in every class, found none in" in refused(tmp_path)
    assert "hats (left out: 1 without an image's ending)" in refused(tmp_path)


def test_an_image_outside_of_every_class_is_refused_by_name(tmp_path):
    make(tmp_path, "shoes/a.png", "hats/b.png", "cover.png")

    assert "'cover.png'" in refused(tmp_path)


def test_an_image_between_the_classes_of_train_is_refused_by_name(tmp_path):
    make(tmp_path, "train/shoes/a.png", "train/hats/b.png", "val/shoes/c.png", "train/stray.png")

    assert "'train/stray.png'" in refused(tmp_path)


def test_a_class_that_is_only_in_val_is_refused_by_name(tmp_path):
    make(tmp_path, "train/shoes/a.png", "train/hats/b.png", "val/gloves/c.png")

    assert "'val/gloves'" in refused(tmp_path)


def test_train_without_val_is_not_taken_for_a_class(tmp_path):
    make(tmp_path, "train/shoes/a.png", "test/shoes/b.png")

    assert "found test/, train/" in refused(tmp_path)


def test_a_folder_beside_train_and_val_is_refused_by_name(tmp_path):
    make(tmp_path, "train/shoes/a.png", "val/shoes/b.png", "more/shoes/c.png")

    assert "'more'" in refused(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,category\na.png,x\n", "expected the columns path and label"),
        ("", "found nothing"),
        ("path,label\na.png,x\nmissing.png,y\n", "1 missing: 'missing.png'"),
        ("path,label\na.png,x\na.png,y\n", "'a.png' again in line 3"),
        ("path,label\na.png,x\n./a.png,x\n", "'a.png' again in line 3"),
        ("path,label\na.png\n", "line 2: expected 2 cells"),
        ("path,label\na.png,x,y\n", "line 2: 'y' stands in a column without a name"),
        ("path,label\na.png,\n", "line 2: expected a path and a label"),
        ("path,label\n,x\n", "line 2: expected a path and a label"),
        ("path,label\n../a.png,x\n", "line 2: expected a path below the dataset"),
        ("path,label\n/etc/passwd,x\n", "line 2: expected a path below the dataset"),
        ('path,label\n"a.png,x\n', "line 2: not CSV"),
        ("path,label\na\0.png,x\n", "NUL byte"),
    ],
)
def test_a_table_that_is_not_as_it_should_be_is_refused_with_the_place(tmp_path, text, message):
    folder = make(tmp_path / "photos", "a.png", "b.png")
    (tmp_path / "labels.csv").write_text(text)

    assert message in refused(folder, labels=tmp_path / "labels.csv")


def test_a_table_that_cannot_be_read_is_refused(tmp_path):
    assert "cannot be read" in refused(tmp_path, labels=tmp_path / "missing.csv")


def many(folder: Path, **counts: int) -> Path:
    return make(folder, *(f"{name}/{number}.png" for name, count in counts.items() for number in range(count)))


def test_of_each_class_a_share_is_held_out_by_the_seed(tmp_path):
    dataset = read_dataset(many(tmp_path, shoes=40, hats=10, gloves=2, ties=1))

    split = hold_out(dataset, 0.1, seed=0)

    counts = np.bincount(split.labels[split.validation_rows], minlength=4)
    assert dict(zip(split.classes, counts.tolist(), strict=True)) == {"gloves": 1, "hats": 1, "shoes": 4, "ties": 0}
    assert np.array_equal(split.held_out, hold_out(dataset, 0.1, seed=0).held_out)
    assert not np.array_equal(split.held_out, hold_out(dataset, 0.1, seed=1).held_out)


def test_nothing_is_held_out_for_a_share_of_zero_and_val_stays_as_it_is(tmp_path):
    dataset = read_dataset(make(tmp_path, "train/a/1.png", "train/b/2.png", "val/a/3.png"))

    assert hold_out(dataset, 0.5, seed=0) is dataset
    assert not hold_out(read_dataset(many(tmp_path / "two", a=5, b=5)), 0, seed=0).held_out.any()


def test_of_a_class_something_is_left_to_learn_from_whatever_the_share(tmp_path):
    split = hold_out(read_dataset(many(tmp_path, shoes=3, hats=2)), 0.9, seed=0)

    assert np.bincount(split.labels[split.training_rows]).tolist() == [1, 1]


def not_enough(dataset, batch_size: int) -> tuple[str, str]:
    with pytest.raises(UsageError) as refusal:
        require_enough(dataset, batch_size)
    return refusal.value.message, refusal.value.hint


def test_one_class_only_is_refused(tmp_path):
    message, _ = not_enough(read_dataset(many(tmp_path, shoes=5)), 2)

    assert "expected two classes or more, found 'shoes'" in message


def test_a_folder_without_any_class_is_refused(tmp_path):
    message, _ = not_enough(read_dataset(tmp_path), 2)

    assert "found none" in message


def test_fewer_images_than_a_batch_are_refused_with_a_batch_that_would_do(tmp_path):
    dataset = hold_out(read_dataset(many(tmp_path, shoes=10, hats=10)), 0.1, seed=0)

    message, hint = not_enough(dataset, 64)

    assert "at least a batch of 64 images to learn from, found 18" in message
    assert "--batch-size 9" in hint
    require_enough(dataset, 18)


def test_a_class_whose_images_all_turn_out_to_be_bad_is_refused_by_name(tmp_path):
    dataset = read_dataset(many(tmp_path, shoes=5, hats=2))

    left = dataset.without([Reject(f"hats/{number}.png", "corrupt", "cut short") for number in range(2)])

    message, _ = not_enough(left, 2)
    assert "found no images in 'hats' (2 cannot be used)" in message


def test_a_class_that_has_images_for_validation_only_is_refused(tmp_path):
    dataset = read_dataset(make(tmp_path, "train/a/1.png", "train/b/2.png", "val/b/3.png"))

    message, _ = not_enough(dataset.without([Reject("train/b/2.png", "corrupt", "")]), 1)

    assert "only images for validation (1) in 'b'" in message


def test_images_left_out_take_their_label_with_them(tmp_path):
    dataset = hold_out(read_dataset(many(tmp_path, shoes=4, hats=4)), 0.25, seed=0)

    left = dataset.without([Reject("hats/1.png", "corrupt", "cut short")])

    assert len(left.paths) == len(left.labels) == len(left.held_out) == 7
    labels = dict(zip(dataset.paths, zip(dataset.labels, dataset.held_out, strict=True), strict=True))
    assert dict(zip(left.paths, zip(left.labels, left.held_out, strict=True), strict=True)) == {
        path: facts for path, facts in labels.items() if path != "hats/1.png"
    }
    assert left.rejected == (Reject("hats/1.png", "corrupt", "cut short"),)
    assert left.fingerprint() != dataset.fingerprint()
