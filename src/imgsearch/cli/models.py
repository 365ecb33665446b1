"""`imgsearch models`."""

from typing import Annotated, Literal

import typer


def models(
    format_: Annotated[Literal["table", "json"], typer.Option("--format", help="Form of the answer.")] = "table",
) -> None:
    """List the encoders that --backbone takes.

    Examples:

      imgsearch models

      imgsearch build-index ./catalog --backbone handcrafted
    """
    import json

    from imgsearch.cli.render import output, write
    from imgsearch.encoders.spec import DEFAULT_BACKBONE, TABLE

    if format_ == "json":
        facts = [
            {
                "name": row.spec.name,
                "size": row.spec.size,
                "dims": row.spec.dims,
                "weights": row.spec.weights,
                "licence": row.licence,
                "about": row.about,
                "default": row.spec.name == DEFAULT_BACKBONE,
            }
            for row in TABLE.values()
        ]
        text = json.dumps(facts, indent=1) + "\n"
    else:
        text = "".join(
            f"{row.spec.name + ('*' if row.spec.name == DEFAULT_BACKBONE else ''):<20}"
            f"{row.spec.size:>4} px {row.spec.dims:>5} dims  {row.about}"
            f"{f' ({row.licence})' if row.licence else ''}\n"
            for row in TABLE.values()
        )
        text += "* the default\n"
    with output(None) as file:
        write(file, text)
