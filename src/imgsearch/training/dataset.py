"""Labeled images: a folder per class, `train/` and `val/` with such folders, or a table of labels."""

import csv
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import UsageError
from imgsearch.images.policy import FilePolicy
from imgsearch.images.scan import Reject, Scan

logger = logging.getLogger(__name__)

# Names of folders that say what an image is for, not what it shows.
_TRAINING, _VALIDATION, _TEST = "train", "val", "test"


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labeled images, some of them held out for validation.

    Attributes:
        root: The folder that paths are relative to.
        paths: Of the images; bytes that are not UTF-8 as `os.fsdecode` gives them.
        labels: int64 (count,), the class of each image.
        classes: Names of the classes.
        held_out: bool (count,), which images are for validation, not for training.
        rejected: Images that cannot be used; not among the others.
    """

    root: str
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    held_out: NDArray[np.bool_]
    rejected: tuple[Reject, ...] = ()

    @property
    def training_rows(self) -> NDArray[np.int64]:
        """Which images are for training."""
        return np.flatnonzero(~self.held_out)

    @property
    def validation_rows(self) -> NDArray[np.int64]:
        """Which images are for validation."""
        return np.flatnonzero(self.held_out)

    def without(self, rejected: Sequence[Reject]) -> "Dataset":
        """Leave images out that turned out to be of no use."""
        bad = {reject.path for reject in rejected}
        keep = np.array([path not in bad for path in self.paths], bool)
        return replace(
            self,
            paths=tuple(path for path in self.paths if path not in bad),
            labels=self.labels[keep],
            held_out=self.held_out[keep],
            rejected=(*self.rejected, *rejected),
        )

    def fingerprint(self) -> str:
        """Return a sha256 of what the images are called and labeled, and which are held out."""
        facts = [self.paths, self.labels.tolist(), self.classes, self.held_out.tolist()]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def read_dataset(root: Path, *, labels: Path | None = None, policy: FilePolicy | None = None) -> Dataset:
    """Find out which images there are and what they show, without opening any.

    Args:
        root: A folder with a folder for each class; or with `train/` and `val/` that hold such folders; or any
            folder, with `labels`. Images may lie in folders below that of their class.
        labels: A CSV file with the columns `path` (below `root`) and `label`.
        policy: Whether links are followed.

    Returns:
        The dataset; images are held out where there is `val/`.

    Raises:
        UsageError: It is no such folder, or no such file.
    """
    if not root.is_dir():
        raise UsageError(f"expected a folder of images, found {'a file' if root.exists() else 'nothing'}: {root}")
    if labels is not None:
        return _from_table(root, labels)
    return _from_folders(root, policy or FilePolicy())


def hold_out(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Hold images of each class out for validation, unless some are already.

    Args:
        dataset: Which images there are.
        share: Of each class, from 0 (none) to less than 1; of a class that has two images or more at least one is
            held out, and at least one is not.
        seed: Source of all chance.
    """
    if dataset.held_out.any() or share == 0:
        return dataset
    held_out = np.zeros(len(dataset.paths), bool)
    for label in range(len(dataset.classes)):
        rows = np.flatnonzero(dataset.labels == label)
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        held_out[np.random.default_rng([seed, label]).permutation(rows)[: max(count, 0)]] = True
    return replace(dataset, held_out=held_out)


def require_enough(dataset: Dataset, batch_size: int) -> None:
    """Look whether something can be learned.

    Args:
        dataset: With what is held out already so.
        batch_size: Images in a batch.

    Raises:
        UsageError: There are fewer than two classes, a class has no image to learn from, or there are fewer
            images than a batch has.
    """
    rejected = f" ({len(dataset.rejected)} cannot be used)" if dataset.rejected else ""
    if len(dataset.classes) < 2:
        names = ", ".join(map(repr, dataset.classes)) or "none"
        raise UsageError(
            f"expected two classes or more, found {names} in {dataset.root}", hint="make a folder for each class"
        )
    counts = np.bincount(dataset.labels[dataset.training_rows], minlength=len(dataset.classes))
    for name, count, held_out in zip(
        dataset.classes,
        counts,
        np.bincount(dataset.labels[dataset.validation_rows], minlength=len(dataset.classes)),
        strict=True,
    ):
        if count == 0:
            only = f"only images for validation ({held_out})" if held_out else "no images"
            raise UsageError(
                f"expected images to learn from in every class, found {only} in {name!r}{rejected}",
                hint="give it images, or remove the class",
            )
    if counts.sum() < batch_size:
        raise UsageError(
            f"expected at least a batch of {batch_size} images to learn from, found {counts.sum()}{rejected}",
            hint=f"give more images, or --batch-size {max(2, int(counts.sum()) // 2)}",
        )


def _from_folders(root: Path, policy: FilePolicy) -> Dataset:
    folders = _folders(root, policy)
    if {_TRAINING, _VALIDATION} <= set(folders):
        return _from_two_folders(root, folders, policy)
    if folders and set(folders) <= {_TRAINING, _VALIDATION, _TEST}:
        raise UsageError(
            f"expected a folder per class, or train/ and val/, found {', '.join(name + '/' for name in folders)}"
            f" in {root}",
            hint=f"give {root / folders[-1]} as the dataset; images are then held out by --validation",
        )
    return _dataset(root, policy, {name: name for name in folders}, set())


def _from_two_folders(root: Path, folders: Sequence[str], policy: FilePolicy) -> Dataset:
    if others := [name for name in folders if name not in (_TRAINING, _VALIDATION, _TEST)]:
        raise UsageError(f"expected nothing beside train/, val/ and test/ in {root}, found {others[0]!r}")
    of_class = {f"{part}/{name}": name for part in (_TRAINING, _VALIDATION) for name in _folders(root / part, policy)}
    known = {name for folder, name in of_class.items() if folder.startswith(f"{_TRAINING}/")}
    if strangers := [folder for folder, name in of_class.items() if name not in known]:
        raise UsageError(
            f"expected every class of val/ in train/ too, found only {strangers[0]!r}",
            hint="give it images to learn from, or remove it",
        )
    return _dataset(root, policy, of_class, {folder for folder in of_class if folder.startswith(f"{_VALIDATION}/")})


def _dataset(root: Path, policy: FilePolicy, of_class: dict[str, str], held_out: set[str]) -> Dataset:
    """Collect the images below folders of classes.

    Args:
        root: The dataset.
        policy: Whether links are followed.
        of_class: Class of each folder below `root`.
        held_out: Which of these folders are for validation.
    """
    classes = tuple(sorted(set(of_class.values()), key=os.fsencode))
    numbers = {name: number for number, name in enumerate(classes)}
    filled: set[str] = set()
    paths, labels, validation, rejected = [], [], [], []
    for path, folder, cause in _images(root, of_class, policy):
        filled.add(folder)
        if cause:
            rejected.append(Reject(path, cause, ""))
            continue
        paths.append(path)
        labels.append(numbers[of_class[folder]])
        validation.append(folder in held_out)
    for folder in of_class:
        if folder not in filled:
            raise UsageError(
                f"expected images in every class, found none in {os.path.join(root, folder)}",
                hint="give it images, or remove the folder",
            )
    return Dataset(
        os.fspath(root),
        tuple(paths),
        np.array(labels, np.int64),
        classes,
        np.array(validation, bool),
        tuple(rejected),
    )


def _images(root: Path, of_class: dict[str, str], policy: FilePolicy) -> Iterator[tuple[str, str, str]]:
    """Yield path, folder of a class, and cause if it cannot be opened, of each image; refuse those of no class."""
    depth = max((folder.count("/") for folder in of_class), default=0) + 1
    for file in Scan(os.fspath(root), follow_links=policy.follow_links):
        folder = "/".join(file.path.split("/")[:depth])
        if folder in of_class:
            yield file.path, folder, file.cause
        elif file.path.split("/")[0] != _TEST:
            raise UsageError(
                f"expected every image in the folder of a class, found {file.path!r} in {root}",
                hint="move it there, or name the classes with --labels FILE.csv",
            )


def _folders(root: Path, policy: FilePolicy) -> list[str]:
    """Name the folders that may be classes, as `Scan` sees them."""
    try:
        with os.scandir(root) as entries:
            return sorted(
                (
                    entry.name
                    for entry in entries
                    if not entry.name.startswith(".")
                    and entry.name != "@eaDir"
                    and entry.is_dir(follow_symlinks=policy.follow_links)
                ),
                key=os.fsencode,
            )
    except OSError as error:
        raise UsageError(f"{root} cannot be listed: {error.strerror}") from error


def _from_table(root: Path, table: Path) -> Dataset:
    names: dict[str, str] = {}
    try:
        with table.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if missing := {"path", "label"} - set(reader.fieldnames or ()):
                found = ", ".join(reader.fieldnames or ()) or "none"
                raise UsageError(
                    f"expected the columns path and label in {table}, found {found}",
                    hint=f"its first line must name a column {min(missing)}",
                )
            for row in reader:
                path, label = _table_row(row, f"{table}, line {reader.line_num}")
                if path in names:
                    raise UsageError(
                        f"expected each image once in {table}, found {path!r} again in line {reader.line_num}"
                    )
                names[path] = label
    except OSError as error:
        raise UsageError(f"{table} cannot be read: {error.strerror}") from error
    except csv.Error as error:
        raise UsageError(f"{table} is not a CSV file: {error}") from error
    if missing_files := [path for path in names if not _exists(root, path)]:
        raise UsageError(
            f"expected the images of {table} in {root}, found {len(missing_files)} missing: {missing_files[0]!r}",
            hint="paths are relative to the dataset",
        )
    classes = tuple(sorted(set(names.values()), key=os.fsencode))
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[label] for label in names.values()], np.int64)
    return Dataset(os.fspath(root), tuple(names), labels, classes, np.zeros(len(names), bool))


def _table_row(row: dict[str, str], place: str) -> tuple[str, str]:
    if None in row or None in row.values():
        raise UsageError(f"{place}: not as many cells as the header has")
    path, label = os.path.normpath(row["path"]), row["label"].strip()
    if not label or not row["path"]:
        raise UsageError(f"{place}: expected a path and a label, found {row['path']!r} and {label!r}")
    if path.startswith("/") or path.split("/")[0] == "..":
        raise UsageError(f"{place}: expected a path below the dataset, found {row['path']!r}")
    return path, label


def _exists(root: Path, path: str) -> bool:
    try:
        return os.path.lexists(os.path.join(root, path))
    except ValueError:  # a zero byte in the name
        return False
