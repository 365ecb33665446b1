"""`imgsearch rollback`."""

from imgsearch.cli import options


def rollback(
    index: options.IndexOption = options.DEFAULT_INDEX,
    wait_lock: options.WaitLockOption = 0,
    quiet: options.QuietOption = False,
) -> None:
    """Return to the previous generation of an index.

    For the morning after a bad night: half the images replaced, a wrong metadata file. The two latest generations
    are kept, so a second rollback returns to where you were. Fix the catalog before the next build-index: it
    brings the index up to date with what it finds.

    Examples:

      imgsearch rollback

      imgsearch rollback --index /srv/shop.idx
    """
    from imgsearch.cli.output import print_text, printable
    from imgsearch.store import rollback as library

    manifest = library.rollback(index, wait_lock=wait_lock)
    if not quiet:
        print_text(f"{printable(str(index))}: {manifest.count} images again, generation {manifest.generation}\n")
