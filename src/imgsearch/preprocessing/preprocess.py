"""Make a folder of images from another: fitted, cleaned, augmented, and kept up to date."""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypedDict, Unpack

from imgsearch.errors import ImageError, OutputError, RefusedError, UsageError, require_between
from imgsearch.files import as_path, require_image_folder, writing
from imgsearch.images import PIXELS_VERSION, Fit
from imgsearch.images.policy import FilePolicy
from imgsearch.images.reading import read_file
from imgsearch.images.scan import (
    IMAGE_SUFFIXES,
    FoundFile,
    Reject,
    Scan,
    hint_for_unused,
    unused_in_words,
)
from imgsearch.images.steps import NO_STEPS, Steps
from imgsearch.images.workers.pool import map_with_workers, while_decoder_works
from imgsearch.locks import exclusive_lock
from imgsearch.preprocessing.file_worker import Ending, FileWorker
from imgsearch.preprocessing.journal import Journal, Source, open_journal
from imgsearch.processors import processor_count
from imgsearch.progress import Progress, counted, no_progress

JOURNAL = ".imgsearch-preprocess.sqlite"
LOCK = ".imgsearch-preprocess.lock"
_SCRATCH = ".imgsearch-preprocess.tmp"

# Part of the settings that outputs are made with. Raise it when the same settings would give other files.
_FILES_VERSION = 1

_LARGEST_SIZE = 16_383
_MAX_COPIES = 1000

# Files between two commits of the journal: at most these are made again after a power cut.
_COMMIT_FILES = 64

# What the name of an output may be at fault for: then it is that of the file, and no reason to end the run.
_BAD_NAMES = {
    errno.ENAMETOOLONG: ("path_too_long", "the name of its output is too long"),
    errno.EISDIR: ("name_taken", "where its output should be there is a folder"),
    errno.EEXIST: ("name_taken", "where the folder of its output should be there is a file"),
    errno.ENOTDIR: ("name_taken", "where the folder of its output should be there is a file"),
}

_AUGMENTED = re.compile(r"\.augmented-\d+$")


@dataclass(frozen=True, slots=True)
class PreprocessReport:
    """What `preprocess` did. seen = unchanged + written + rejected.

    Attributes:
        seen: Files with an image's name.
        unchanged: Of these, files whose outputs were up to date.
        written: Of these, files whose outputs were made.
        rejected: Of these, files that cannot be used.
        new_rejects: The rejected files that were not rejected before.
        left_over: Outputs whose file is gone, or cannot be used any more. They were left as they are.
        left_out: How many entries of each kind were not looked at, as `Scan.left_out`.
        seconds: Wall time.
    """

    seen: int
    unchanged: int
    written: int
    rejected: int
    new_rejects: tuple[Reject, ...]
    left_over: int
    left_out: Mapping[str, int]
    seconds: float


class PreprocessOptions(TypedDict, total=False):
    """How `preprocess` makes outputs."""

    size: int | None  # side of squares in pixels, up to 16,383; by default images keep their size
    fit: Fit  # only with a size: `pad` (default: all of the image on white), `crop` (its middle) or `stretch`
    # With a size images are brought down before to a longer side of 1,024 pixels, or of `size` if that is more, as in
    # an index. Black and white stay so: what fitting makes gray is split in the middle.
    steps: Steps
    augment: int  # copies of each, turned, shifted, sheared, zoomed and mirrored at random
    to: Ending  # `png` (default), `jpg` or `webp` (quality 95), or `npy`: RGB, uint8 (height, width, 3)
    seed: int  # of the copies; the same content gives the same copies
    policy: FilePolicy  # which files are let in


def preprocess(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    jobs: int | None = None,
    progress: Progress = no_progress,
    **options: Unpack[PreprocessOptions],
) -> PreprocessReport:
    """Make a folder of images from another, or bring it up to date.

    The tree of folders is kept. `shoes/red.jpg` becomes `shoes/red.png`, and with `augment` also
    `shoes/red.augmented-1.png` and so on. Where the names of two files differ by their ending only, both outputs keep
    the whole name: `red.jpg.png` and `red.tif.png`. So do files with two endings and those named like augmented copies.

    A file is not made again while it has the size and time it had, the options are the same, and its outputs are
    there. Outputs of files that are gone are counted and left. Files come to their names whole, so that a run may be
    ended at any moment.

    Args:
        source: The folder of images. It is only read.
        destination: A folder that is new, empty, or was written by this function.
        jobs: How many processes work; as many as there are processors by default.
        progress: Told (stage, done, total); stages are `scan` (total 0: not known) and `preprocess`.
        **options: See `PreprocessOptions`.

    Returns:
        What was done.

    Raises:
        UsageError: A number is out of range, there is no such folder, or one lies in the other, or in the destination
            lies something else.
        RefusedError: There is no image in the source that can be opened, or decoders die of one file after another.
        LockedError: Another run is writing there.
        OutputError: No space, or another write error.
    """
    started = time.monotonic()
    settings = _Settings(**options)
    jobs = processor_count() if jobs is None else jobs
    require_between("jobs", jobs, 1, 1000)
    root, target = (Path(os.path.realpath(as_path(folder))) for folder in (source, destination))
    _require_apart(root, target)
    scan = Scan(
        os.fspath(root),
        # A link may lead there: its outputs would be images of the source the next time.
        leave_out=lambda folder: os.path.realpath(folder) == os.fspath(target),
        follow_links=settings.policy.follow_links,
    )
    found = iter(scan)
    first = next(found, None)
    if first is None:
        raise RefusedError(
            f"there is no image in {source}{unused_in_words(scan.left_out, {})}",
            hint=hint_for_unused(scan.left_out, {}),
        )
    with writing(target, "what is there is whole"):
        _claim(target)
        with (
            exclusive_lock(target / LOCK, "another preprocess holds"),
            open_journal(target / JOURNAL, settings.digest) as journal,
            _scratch_folder(target) as scratch,
        ):
            seen, usable = journal.add_found(counted(_named(itertools.chain([first], found)), progress))
            if not usable:
                raise RefusedError(f"no file in {source} can be opened ({first.cause})", hint="is the disk mounted?")
            run = _Run(root, target, scratch, journal, settings)
            run.do(jobs, progress, seen)
            return PreprocessReport(
                seen=seen,
                unchanged=seen - run.written - run.rejected,
                written=run.written,
                rejected=run.rejected,
                new_rejects=tuple(run.new_rejects),
                left_over=journal.forget_gone(),
                left_out=dict(scan.left_out),
                seconds=time.monotonic() - started,
            )


@dataclass(frozen=True, slots=True)
class _Settings:
    """How outputs are made."""

    size: int | None = None
    fit: Fit = "pad"
    steps: Steps = NO_STEPS
    augment: int = 0
    to: Ending = "png"
    seed: int = 0
    policy: FilePolicy = field(default_factory=FilePolicy)

    def __post_init__(self) -> None:
        if self.size is not None:
            require_between("size", self.size, 1, _LARGEST_SIZE)
        require_between("augment", self.augment, 0, _MAX_COPIES)
        require_between("seed", self.seed, 0, 2**63 - 1)
        if self.size is None and self.fit != "pad":
            raise UsageError("fit has no effect without a size", hint="give the side of the squares: --size")

    @property
    def digest(self) -> str:
        """Stands for all that changes an output."""
        settings = {
            "version": [PIXELS_VERSION, _FILES_VERSION],
            "fit": [self.size, self.fit] if self.size else None,
            "steps": str(self.steps),
            "augment": [self.augment, self.seed] if self.augment else None,
            "to": self.to,
            "policy": asdict(self.policy),
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def outputs(self, name: str) -> list[str]:
        """Name the outputs of a file, the image first."""
        return [f"{name}.{self.to}", *(f"{name}.augmented-{n}.{self.to}" for n in range(1, self.augment + 1))]

    def worker(self) -> FileWorker:
        """Return a process that makes outputs; it is not started yet."""
        size, steps, copies, ending = self.size or 0, self.steps, self.augment, self.to
        return FileWorker(size, self.fit, self.policy, steps=steps, augment=copies, seed=self.seed, ending=ending)


@dataclass(frozen=True, slots=True)
class _Made:
    """What was made of a file: its outputs as scratch files, with their sizes, or why there are none."""

    source: Source
    size: int = 0
    mtime_ns: int = 0
    files: tuple[tuple[str, int], ...] = ()
    error: ImageError | None = None


class _Run:
    """One run: what it works on, and what it has done so far."""

    def __init__(self, root: Path, target: Path, scratch: Path, journal: Journal, settings: _Settings) -> None:
        self._root = root
        self._target = target
        self._scratch = scratch
        self._journal = journal
        self._settings = settings
        self.written = 0
        self.rejected = 0
        self.new_rejects: list[Reject] = []

    def do(self, jobs: int, progress: Progress, seen: int) -> None:
        """Make what is not up to date."""
        workers = [self._settings.worker() for _ in range(jobs)]
        done = 0
        with contextlib.closing(map_with_workers(self._make, self._pending(), workers)) as results:
            for made in while_decoder_works(results, lambda made: made.error):
                if made.error is None:
                    self._place(made)
                else:
                    self._reject(made.source, made.error)
                done += 1
                if done % _COMMIT_FILES == 0:
                    self._journal.commit()
                    progress("preprocess", made.source.id, seen)
        progress("preprocess", seen, seen)

    def _pending(self) -> Iterator[Source]:
        """Yield the files whose outputs are to be made; count the others."""
        for source in self._journal.sources():
            if source.cause:
                self._reject(source, ImageError(source.cause, ""))
            elif source.known:
                self.rejected += 1
            elif source.known is None or not self._journal.has_outputs(source, self._settings.outputs(source.name)):
                yield source

    def _make(self, worker: FileWorker, source: Source) -> _Made:
        """Make the outputs of a file, under scratch names; in a thread, as files may be large."""
        try:
            path, policy = os.path.join(self._root, source.path), self._settings.policy
            data, status = read_file(path, follow_links=policy.follow_links, max_bytes=policy.max_bytes)
            parts = worker.files(data)
        except ImageError as error:
            return _Made(source, error=error)
        files = [(os.path.join(self._scratch, f"{source.id}-{number}"), part) for number, part in enumerate(parts)]
        for name, part in files:
            with open(name, "wb") as file:
                file.write(part)
        return _Made(source, status.size, status.mtime_ns, tuple((name, len(part)) for name, part in files))

    def _place(self, made: _Made) -> None:
        """Give outputs their names, and remove those that the file had before and has no more."""
        outputs = self._settings.outputs(made.source.name)
        try:
            # Longer names first: if one is too long, no other is there yet.
            for (scratch_name, _), output in reversed(list(zip(made.files, outputs, strict=True))):
                Path(scratch_name).replace(self._path_of(output))
        except OSError as error:
            if error.errno not in _BAD_NAMES:
                raise
            self._reject(made.source, ImageError(*_BAD_NAMES[error.errno]))
            return
        sized = [(output, size) for output, (_, size) in zip(outputs, made.files, strict=True)]
        for output in self._journal.record(made.source, made.size, made.mtime_ns, sized):
            self._path_of(output).unlink(missing_ok=True)
        self.written += 1

    def _reject(self, source: Source, error: ImageError) -> None:
        self.rejected += 1
        if self._journal.reject(source, error.cause):
            self.new_rejects.append(Reject(source.path, error.cause, error.message))

    def _path_of(self, output: str) -> Path:
        """Find where an output goes; a link in the destination must not lead it elsewhere, the source least of all."""
        path = self._target / output
        path.parent.mkdir(parents=True, exist_ok=True)
        if not Path(os.path.realpath(path.parent)).is_relative_to(self._target):
            raise OutputError(f"{path.parent} leads out of {self._target}", hint="remove the link")
        return path


def _named(found: Iterable[FoundFile]) -> Iterator[tuple[FoundFile, str]]:
    """Pair files with the names of their outputs, less what is added to them; no two get the same."""
    for _, group in itertools.groupby(found, lambda file: file.path.rpartition("/")[0]):
        files = list(group)
        stems = [file.path.rpartition(".")[0] for file in files]
        counts = Counter(stems)
        for file, stem in zip(files, stems, strict=True):
            # A name without its ending never looks like a whole name, nor like that of an augmented copy.
            is_whole = counts[stem] > 1 or stem.lower().endswith(IMAGE_SUFFIXES) or _AUGMENTED.search(stem)
            yield file, file.path if is_whole else stem


def _require_apart(root: Path, target: Path) -> None:
    require_image_folder(root)
    if os.path.exists(target) and not os.path.isdir(target):
        raise UsageError(f"expected a folder to write to, found a file: {target}")
    for inner, outer in ((root, target), (target, root)):
        around = [folder for folder in (inner, *inner.parents) if os.path.exists(folder)]
        if os.path.exists(outer) and any(folder.samefile(outer) for folder in around):
            raise UsageError(f"expected two folders, neither in the other, found {root} and {target}")


def _claim(target: Path) -> None:
    """Make the destination if it is missing, and refuse one with files of somebody else."""
    target.mkdir(parents=True, exist_ok=True)
    names = {path.name for path in target.iterdir() if not path.name.startswith(LOCK)}
    if names and JOURNAL not in names:
        raise UsageError(
            f"expected a new or empty folder, or one that preprocess has written, found other files in {target}",
            hint="choose another destination",
        )


@contextlib.contextmanager
def _scratch_folder(target: Path) -> Iterator[Path]:
    """Keep a folder for outputs that are not whole yet; one that a killed run left is cleared away."""
    scratch = target / _SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
