"""What `imgsearch serve` is started with."""

from dataclasses import dataclass
from pathlib import Path

from imgsearch.search.index import Fallback


@dataclass(frozen=True, slots=True)
class Settings:
    """How an index is served.

    Attributes:
        index: The index directory.
        model: A `.keras` file that names classes for `/recognize`; None: the neighbors vote.
        token: What every request must bring; empty: none is asked for.
        root_path: Where a proxy shows the service, such as `/search`; empty for the root.
        cors_origins: Origins whose pages may call the API.
        rate: How many requests a minute a client may send; 0 for any number.
        fallback: What answers where the server of the index does not; see `Index.open`.
        allow_any_host: Whether requests may name any host; otherwise only this machine.
    """

    index: Path
    model: Path | None = None
    token: str = ""
    root_path: str = ""
    cors_origins: tuple[str, ...] = ()
    rate: int = 0
    fallback: Fallback | None = None
    allow_any_host: bool = False
