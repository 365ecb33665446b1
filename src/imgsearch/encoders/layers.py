"""Layers of our own that a `.keras` file may have. Keras knows them by their registered names once this is imported."""

from typing import Any

import keras
from keras import layers, ops

from imgsearch.encoders.table import GEM_EXPONENT, GEM_FLOOR


@keras.saving.register_keras_serializable("imgsearch")
class GeneralizedMean(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """GeM pooling, (N, H, W, C) to (N, C): Radenovic, Tolias, Chum: Fine-tuning CNN Image Retrieval (2018), eq. 3."""

    def __init__(self, exponent: float = GEM_EXPONENT, **options: Any) -> None:
        super().__init__(**options)
        self.exponent = exponent

    def call(self, features: Any) -> Any:
        """Pool over height and width."""
        if self.exponent == 1:
            return ops.mean(features, axis=(1, 2))
        powers = ops.power(ops.maximum(features, GEM_FLOOR), self.exponent)
        return ops.power(ops.mean(powers, axis=(1, 2)), 1.0 / self.exponent)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {**super().get_config(), "exponent": self.exponent}
