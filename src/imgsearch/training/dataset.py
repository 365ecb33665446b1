"""Labeled images: a folder per class, `train/` and `val/` with such folders, or a table of labels."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import UsageError
from imgsearch.images.policy import FilePolicy
from imgsearch.images.scan import Reject, Scan, is_hidden, unused_in_words
from imgsearch.tables import Table

# Names of folders that say what an image is for, not what it shows.
_TRAINING, _VALIDATION, _TEST = "train", "val", "test"


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labeled images below a folder, some of them held out for validation: class number and flag of each path."""

    root: str
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    held_out: NDArray[np.bool_]
    rejected: tuple[Reject, ...] = ()  # not among the paths

    @property
    def training_rows(self) -> NDArray[np.int64]:
        """The images to train on."""
        return np.flatnonzero(~self.held_out)

    @property
    def validation_rows(self) -> NDArray[np.int64]:
        """The images that are held out."""
        return np.flatnonzero(self.held_out)

    def without(self, rejected: Sequence[Reject]) -> "Dataset":
        """Leave out images that cannot be used."""
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
        """Return a sha256 of paths, labels and which images are held out."""
        facts = [self.paths, self.labels.tolist(), self.classes, self.held_out.tolist()]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def read_dataset(root: Path, *, labels: Path | None = None, policy: FilePolicy | None = None) -> Dataset:
    """Find images by a folder per class, by `train/` and `val/` with such folders, or by a CSV file of labels."""
    if not root.is_dir():
        raise UsageError(f"expected a folder of images, found {'a file' if root.exists() else 'nothing'}: {root}")
    if labels is not None:
        return _from_table(root, labels)
    return _from_folders(root, policy or FilePolicy())


def hold_out(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Hold out a share of each class of two images or more, at least one and not all, unless some are already."""
    if dataset.held_out.any() or share == 0:
        return dataset
    held_out = np.zeros(len(dataset.paths), bool)
    for label in range(len(dataset.classes)):
        rows = np.flatnonzero(dataset.labels == label)
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        held_out[np.random.default_rng([seed, label]).permutation(rows)[: max(count, 0)]] = True
    return replace(dataset, held_out=held_out)


def require_enough(dataset: Dataset, batch_size: int) -> None:
    """Refuse fewer than two classes, a class without images to train on, and fewer images than a batch."""
    rejected = f" ({len(dataset.rejected)} cannot be used)" if dataset.rejected else ""
    if len(dataset.classes) < 2:
        names = ", ".join(map(repr, dataset.classes)) or "none"
        raise UsageError(
            f"expected two classes or more, found {names} in {dataset.root}", hint="make a folder for each class"
        )
    counts, held_out = (
        np.bincount(dataset.labels[rows], minlength=len(dataset.classes))
        for rows in (dataset.training_rows, dataset.validation_rows)
    )
    for number in np.flatnonzero(counts == 0):
        found = f"only images for validation ({held_out[number]})" if held_out[number] else "no images"
        raise UsageError(
            f"expected images to learn from in every class, found {found} in {dataset.classes[number]!r}{rejected}",
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
    """Collect the images below folders, of which `of_class` has the class and `held_out` those for validation."""
    scan = Scan(os.fspath(root), follow_links=policy.follow_links)
    found = list(_images(scan, root, of_class))
    filled = {folder for _, folder, _ in found}
    if empty := [folder for folder in of_class if folder not in filled]:
        raise UsageError(
            f"expected images in every class, found none in {os.path.join(root, empty[0])}"
            + unused_in_words(scan.left_out, {}),
            hint="give it images, or remove the folder",
        )
    names = {path: of_class[folder] for path, folder, _ in found}
    dataset = _labeled(root, names, [folder in held_out for _, folder, _ in found])
    return dataset.without([Reject(path, cause, "") for path, _, cause in found if cause])


def _labeled(root: Path, names: dict[str, str], held_out: Sequence[bool]) -> Dataset:
    classes = tuple(sorted(set(names.values()), key=os.fsencode))
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[name] for name in names.values()], np.int64)
    return Dataset(os.fspath(root), tuple(names), labels, classes, np.array(held_out, bool))


def _images(scan: Scan, root: Path, of_class: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield path, folder of a class, and cause if it cannot be opened, of each image; refuse those of no class."""
    depth = max((folder.count("/") for folder in of_class), default=0) + 1
    for file in scan:
        folder = "/".join(file.path.split("/")[:depth])
        if folder in of_class:
            yield file.path, folder, file.cause
        elif file.path.split("/")[0] != _TEST:
            raise UsageError(
                f"expected every image in the folder of a class, found {file.path!r} in {root}",
                hint="move it there, or name the classes with --labels FILE.csv",
            )


def _folders(root: Path, policy: FilePolicy) -> list[str]:
    try:
        with os.scandir(root) as entries:
            return sorted(
                (
                    entry.name
                    for entry in entries
                    if not is_hidden(entry.name) and entry.is_dir(follow_symlinks=policy.follow_links)
                ),
                key=os.fsencode,
            )
    except OSError as error:
        raise UsageError(f"{root} cannot be listed: {error.strerror}") from error


def _from_table(root: Path, table: Path) -> Dataset:
    names: dict[str, str] = {}
    for line, row in Table(table, [["path"], ["label"]], names_of_files=["path", "label"]).rows():
        path, label = _table_row(row, f"{table}, line {line}")
        if path in names:
            raise UsageError(f"expected each image once in {table}, found {path!r} again in line {line}")
        names[path] = label
    if missing_files := [path for path in names if not _exists(root, path)]:
        raise UsageError(
            f"expected the images of {table} in {root}, found {len(missing_files)} missing: {missing_files[0]!r}",
            hint="paths are relative to the dataset",
        )
    return _labeled(root, names, [False] * len(names))


def _table_row(row: dict[str, str], place: str) -> tuple[str, str]:
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
