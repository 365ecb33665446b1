"""Opens files with Pillow, which is imported for the few that need it: a query of another has no time for that."""

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from imgsearch.errors import ImageError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile


@contextlib.contextmanager
def opened_by_pillow(data: bytes, kind: str) -> Iterator["ImageFile"]:
    """Open a `tiff` or a `jpeg`; ImageError for whatever Pillow meets in it, be it now or in the block."""
    from PIL.Image import DecompressionBombError
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.TiffImagePlugin import TiffImageFile

    # What Pillow thinks of a file's metadata is of no interest to who searches.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        with {"tiff": TiffImageFile, "jpeg": JpegImageFile}[kind](io.BytesIO(data)) as image:
            yield image
    except DecompressionBombError:
        raise ImageError("too_large", "more pixels than Pillow's limit") from None
    # Its readers let out whatever goes wrong in a file that is not as they expect.
    except (OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error):
        raise ImageError("corrupt", "cut short or damaged") from None
    except (AttributeError, RuntimeError):
        raise ImageError("corrupt", "cut short or damaged") from None
