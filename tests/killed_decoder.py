"""For workers of Dask to preload: a decoder process is killed whenever it is given a file that ends with `KILLER`."""

from imgsearch.images.workers.decoders import DecodeWorker

KILLER = b"kills its decoder"
_real = DecodeWorker.decode_with_colors


def decode_or_die(worker, data):
    """Take the place of `DecodeWorker.decode_with_colors`."""
    if data.endswith(KILLER):
        (worker._process or worker._start()).kill()
    return _real(worker, data)


def dask_setup(_):
    """Dask calls this when a worker starts."""
    DecodeWorker.decode_with_colors = decode_or_die
