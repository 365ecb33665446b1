"""`imgsearch models`."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from imgsearch.cli import options

if TYPE_CHECKING:
    from imgsearch.encoders.available import AvailableEncoder


def models(
    action: Annotated[Literal["list", "fetch"], typer.Argument(help="List encoders, or download weights.")] = "list",
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Encoders to fetch.")] = None,
    format_: options.FormatOption = "table",
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """List the available encoders, or download their weights.

    Encoders are what --backbone takes; it also takes any FILE.keras of train and any FILE.onnx. Keras downloads
    the weights of keras.applications networks on first use; with IMGSEARCH_OFFLINE=1 nothing is ever downloaded.

    Examples:

      imgsearch models

      imgsearch models fetch resnet50

      imgsearch build-index ./catalog --backbone lite0-retrieval+handcrafted:color=0.3
    """
    import json

    from imgsearch.cli.output import print_text, set_up_logging
    from imgsearch.encoders import available as library
    from imgsearch.errors import UsageError

    set_up_logging(quiet=quiet, verbose=verbose)
    if (action == "fetch") != bool(names):
        raise UsageError("fetch needs names, list takes none", hint="imgsearch models fetch resnet50")
    found = library.models(fetch=names or ())
    if format_ == "json":
        text = json.dumps([_as_json(encoder) for encoder in found], indent=1) + "\n"
    else:
        text = "".join(map(_line, found)) + "* the default\n"
    print_text(text)


def _as_json(encoder: "AvailableEncoder") -> dict[str, Any]:
    row = encoder.row
    return {
        "name": row.spec.name,
        "size": row.spec.size,
        "dims": row.spec.dims,
        "weights": row.spec.weights,
        "megabytes": row.megabytes,
        "file": str(encoder.file) if encoder.file else None,
        "here": encoder.here,
        "licence": row.license,
        "about": row.about,
        "default": encoder.default,
    }


def _line(encoder: "AvailableEncoder") -> str:
    from imgsearch.cli.output import printable

    row = encoder.row
    weights = "no weights"
    if row.megabytes:
        where = f"here, {encoder.file}" if encoder.here else "not here yet: Keras downloads them"
        weights = f"{row.megabytes} MB, {row.license}, {where}"
    name = row.spec.name + ("*" if encoder.default else "")
    return f"{name:<20}{row.spec.size:>4} px {row.spec.dims:>5} dims  {row.about} ({printable(weights)})\n"
