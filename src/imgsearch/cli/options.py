"""Options and arguments that several commands share."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeVar, cast

import typer

from imgsearch.cli.formats import FORMATS
from imgsearch.errors import UsageError

Options = TypeVar("Options")


def options_of(context: typer.Context, kind: type[Options]) -> Options:
    """Collect the options of a command that a TypedDict has a key for."""
    return cast("Options", {name: value for name, value in context.params.items() if name in kind.__annotations__})


IndexOption = Annotated[Path, typer.Option("--index", metavar="DIR", envvar="IMGSEARCH_INDEX", help="Index directory.")]
DEFAULT_INDEX = Path(".imgsearch")

ImagesArgument = Annotated[
    list[str], typer.Argument(metavar="IMAGE...", help="Image files; - reads one path per line from standard input.")
]


def _known_format(name: str) -> str:
    if name not in FORMATS:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, FORMATS))}.")
    return name


AnswerFormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        metavar=f"[{'|'.join(FORMATS)}]",
        callback=_known_format,
        autocompletion=lambda: list(FORMATS),
        help="Output format.",
    ),
]
FormatOption = Annotated[Literal["table", "json"], typer.Option("--format", help="Output format.")]
ListingFormatOption = Annotated[
    Literal["table", "json", "csv", "paths", "html"], typer.Option("--format", help="Output format.")
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to FILE instead of standard output.")
]
FallbackOption = Annotated[
    Literal["exact"] | None,
    typer.Option(help="Where the server of the index does not answer: exact compares with every image instead."),
]
PreviewOption = Annotated[
    bool,
    typer.Option("--preview", help="Also show the images, in the terminal below the table."),
]
NullOption = Annotated[
    bool, typer.Option("--null", "-0", help="Paths read and written end with NUL instead of a line break.")
]

WhereOption = Annotated[
    str,
    typer.Option(
        metavar="SQL",
        help="SQL condition that hits must satisfy, on path, product, category, and the columns of --metadata.",
    ),
]
CategoryOption = Annotated[
    str, typer.Option(metavar="NAME", help="Only hits of this category, or of one below it: shoes, shoes/boots.")
]
ColorOption = Annotated[
    str,
    typer.Option(metavar="COLOR", help="Only hits of this main color: #1e6fb8, or a name such as blue or gray."),
]
PriceOption = Annotated[
    str | None, typer.Option(metavar="LOW..HIGH", help="Short for --range price=LOW..HIGH; either may be missing.")
]
RangeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--range",
        metavar="COLUMN=LOW..HIGH",
        help="Only hits with a number or date in this range, ends included; may be repeated.",
    ),
]
ByOption = Annotated[
    Literal["product"] | None,
    typer.Option(help="One hit for each product: its best image, and how many others match; K counts products."),
]
DistinctOption = Annotated[
    str, typer.Option(metavar="COLUMN", help="One hit for each value of a column, such as a color; the best.")
]
DiverseOption = Annotated[
    float | None,
    typer.Option(
        metavar="[LAMBDA]",
        min=0,
        max=1,
        help="Hits that are not all alike: 1 looks at the score alone, 0 at the likeness to other hits."
        " [without a number: 0.5]",
    ),
]

BeforeOption = Annotated[
    str | None, typer.Option(metavar="DATE", help="Those before a date or time, UTC: 2026-01-31, 2026-01-31T12:00.")
]


def read_before(text: str) -> datetime:
    """Return the time that --before names."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"expected a date for --before, such as 2026-01-31, found {text!r}") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Print more.")]

BackboneOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Encoder: see imgsearch models; or FILE.keras or FILE.onnx; or DIR of a model of images and texts;"
        " or several joined by +."
        " [default: as the index, or lite0-retrieval]",
    ),
]
OnnxInputOption = Annotated[
    str | None,
    typer.Option(
        metavar="FACTS",
        help="How images become the input of --backbone FILE.onnx, such as size=224,fit=pad,mean=0.5,std=0.5."
        " [default: what preprocessor_config.json beside it says]",
    ),
]
PreprocessOption = Annotated[
    str | None,
    typer.Option(
        metavar="STEPS",
        help="Steps for every image and query, such as grayscale,binarize=otsu; see imgsearch preprocess; none: none."
        " [default: as the index, or none]",
    ),
]
TrimOption = Annotated[
    bool | None,
    typer.Option(
        "--trim/--no-trim",
        help="Cut off plain borders and center the item. [default: as the index, or --trim; not for FILE.keras]",
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Weights for an encoder of keras.applications, such as vgg16; none: the usual ones."
    ),
]
PrecisionOption = Annotated[
    Literal["auto", "f32", "bf16", "int8"] | None,
    typer.Option(
        help="What the encoder computes in; auto: the faster of f32 and bf16 here; int8: calibrated on the catalog, if"
        " its hit rate falls by no more than 0.5 points. [default: as the index, or auto]"
    ),
]
DeviceOption = Annotated[
    Literal["cpu", "gpu"] | None,
    typer.Option(
        help="What networks embed images on; gpu: in f32, and on the CPU where there is none, or it computes otherwise."
        " [default: cpu]"
    ),
]
MetadataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Data about images, as CSV, .jsonl or .parquet: a column path, image or images, and any others. Read again"
        " by every later build; none: no data.",
    ),
]
MetadataEncodingOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Encoding of that file, such as cp1252. [default: as the index, or utf-8]"),
]
TextOption = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN,COLUMN",
        help="Columns of that file that say in words what an item is; none: items have no words; auto: title and"
        " description, or the names of files and folders. [default: as the index, or auto]",
    ),
]
ForceOption = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Continue even if most images or data have vanished, or the decoder keeps crashing.",
    ),
]
KeepPixelsOption = Annotated[
    bool,
    typer.Option(
        "--keep-pixels", help="Keep the embeddings of an older imgsearch, which read the colors of some images wrongly."
    ),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Exit with 3 for any rejected file, not only new ones.")]
MaxBytesOption = Annotated[
    int | None, typer.Option(metavar="N", help="Reject larger files. [default: as the index, or 100000000]")
]
MaxPixelsOption = Annotated[
    int | None, typer.Option(metavar="N", help="Reject larger images. [default: as the index, or 178956970]")
]
DamagedOption = Annotated[
    Literal["skip", "keep"] | None,
    typer.Option(help="Reject a damaged JPEG, or keep and flag what can be decoded. [default: as the index, or skip]"),
]
FollowLinksOption = Annotated[
    bool | None, typer.Option("--follow-links/--no-follow-links", help="Follow links. [default: as the index, or not]")
]
MaxSkippedOption = Annotated[
    int | None, typer.Option(metavar="N", min=0, help="Refuse to publish if more than N files cannot be used.")
]
WaitLockOption = Annotated[
    float, typer.Option(metavar="SECONDS", min=0, help="Seconds to wait for another build to end.", show_default=False)
]
EngineOption = Annotated[
    Literal["local", "dask"],
    typer.Option(help="What embeds: this machine, or workers of Dask (an extra)."),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Dask's scheduler, such as tcp://10.0.0.5:8786. [default: a worker on this machine]",
    ),
]
