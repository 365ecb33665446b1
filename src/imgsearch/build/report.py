"""What a build did, and what it took."""

import contextlib
import resource
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from imgsearch.build.journal import Changes
from imgsearch.build.pipeline import EmbedCounts
from imgsearch.encoders.int8 import Int8Loss
from imgsearch.encoders.projection import AdaptationGain
from imgsearch.images.scan import Reject
from imgsearch.store.manifest import Manifest


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build did. seen = unchanged + renamed + embedded + rejected.

    Attributes:
        generation: What is published now.
        published: Whether this build published it; False if nothing had changed.
        seen: Files with an image's name.
        unchanged: Of these, published before with the same size and time.
        renamed: Known content under another name (renamed or copied files).
        embedded: New or changed images.
        resumed: Of these, embedded by a build before that was interrupted.
        forgotten: Embeddings of that build that were damaged, and were made again.
        damaged: Items of whose image only a part could be decoded.
        blank: Items whose image is of one color.
        ignored_profiles: Items whose image has a color profile of no use.
        texts_encoded: Different texts that this build encoded; those that it had encoded before are kept.
        rejected: Files that cannot be used.
        removed: Published before, gone now.
        causes: How many files were rejected for which cause.
        rows_without_image: Rows of the shop's data without a path, and paths there that are those of no item.
        images_without_row: Items that the shop's data have no row for; 0 where there are no such data.
        left_out: How many entries of the catalog of each kind were not looked at: `hidden`, `link`, `index`, and
            `other` for files without an image's name.
        new_rejects: The rejected files that were not rejected before.
        adaptation: What adapting the projection to the catalog gained, now or in an earlier build; None without.
        int8: What an encoder in int8 loses, measured now or in an earlier build; None in another precision.
        encoder: Name of the encoder.
        plan: The backend that answers queries, such as `annoy`; `none` where there are embeddings only.
        seconds: Wall time of each stage, and of all under `total`.
        peak_rss_bytes: The most memory this process has had so far. Decoder processes have limits of their own.
    """

    generation: int
    published: bool
    seen: int
    unchanged: int
    renamed: int
    embedded: int
    resumed: int
    forgotten: int
    damaged: int
    blank: int
    ignored_profiles: int
    texts_encoded: int
    rejected: int
    removed: int
    causes: Mapping[str, int]
    rows_without_image: int
    images_without_row: int
    left_out: Mapping[str, int]
    new_rejects: tuple[Reject, ...]
    adaptation: AdaptationGain | None
    int8: Int8Loss | None
    encoder: str
    plan: str
    seconds: Mapping[str, float]
    peak_rss_bytes: int

    @property
    def count(self) -> int:
        """Items in the published generation."""
        return self.seen - self.rejected

    @property
    def images_per_second(self) -> float:
        """Images embedded by this build for each second of that stage; 0 if there were none."""
        seconds = self.seconds.get("embed", 0)
        return (self.embedded - self.resumed) / seconds if seconds else 0.0


def report_of(
    manifest: Manifest,
    watch: "Stopwatch",
    changes: Changes,
    counts: EmbedCounts,
    *,
    published: bool,
    causes: Mapping[str, int],
    unmatched: tuple[int, int],
    texts_encoded: int,
    new_rejects: Iterable[Reject] = (),
) -> BuildReport:
    """Put a report together."""
    return BuildReport(
        generation=manifest.generation,
        published=published,
        seen=changes.seen,
        unchanged=changes.unchanged,
        renamed=counts.renamed,
        embedded=counts.embedded,
        resumed=counts.resumed,
        forgotten=changes.forgotten,
        damaged=manifest.damaged,
        blank=manifest.blank,
        ignored_profiles=manifest.ignored_profiles,
        texts_encoded=texts_encoded,
        rejected=changes.rejected + counts.rejected,
        removed=changes.removed,
        causes=causes,
        rows_without_image=unmatched[0],
        images_without_row=unmatched[1],
        left_out=changes.left_out,
        new_rejects=tuple(new_rejects),
        adaptation=manifest.adaptation,
        int8=manifest.int8,
        encoder=manifest.encoder.name,
        plan=manifest.backend.name if manifest.backend else "none",
        seconds=watch.all(),
        peak_rss_bytes=peak_memory(),
    )


class Stopwatch:
    """Measures the wall time of the stages of a build; a stage that comes twice adds up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = time.monotonic()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started

    def all(self) -> dict[str, float]:
        """Return the seconds of all stages, and since the start as `total`."""
        return {**self.seconds, "total": time.monotonic() - self._started}


def peak_memory() -> int:
    """Return the most memory (resident set, bytes) this process has had since it was started."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            lines = dict(line.split(":", 1) for line in file)
        return 1024 * int(lines["VmHWM"].split()[0])
    except (OSError, KeyError):  # the kernel does not say; this may count the parent's memory before the start
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
