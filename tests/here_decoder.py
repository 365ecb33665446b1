"""A decoder for builds whose point is not a decoder process; what those are for, tests/images proves."""

from imgsearch.images.steps import NO_STEPS
from imgsearch.images.workers.decoders import decode_with_colors


class HereDecoder:
    """Decodes in this process: to start another takes longer than the rest of a small build."""

    def __init__(self, size, fit, policy, *, steps=NO_STEPS, colors=False):
        self._settings = policy, size, fit, steps
        self._colors = colors

    def decode(self, data):
        return self.decode_with_colors(data)[:2]

    def decode_with_colors(self, data):
        return decode_with_colors(data, *self._settings, colors=self._colors)

    def kill(self):
        pass

    def close(self):
        pass
