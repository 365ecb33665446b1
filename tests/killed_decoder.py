"""For workers of Dask to preload: certain files kill their decoder process, or meet a bug."""

from imgsearch.images.workers.decoders import DecodeWorker

KILLER = b"kills its decoder"  # what such a file ends with
BUG = b"meets a bug"
_real = DecodeWorker.decode_with_colors


def decode_or_die(worker, data):
    """Take the place of `DecodeWorker.decode_with_colors`."""
    if data.endswith(KILLER):
        (worker._process or worker._start()).kill()
    if data.endswith(BUG):
        return decode_or_die(worker, data)  # without end
    return _real(worker, data)


def dask_setup(_):
    """Dask calls this when a worker starts."""
    DecodeWorker.decode_with_colors = decode_or_die
