"""Name the class of an image, with a model that `train` wrote; on OpenVINO, like an encoder."""

import os
from dataclasses import replace

from imgsearch.encoders.choice import choose_encoder
from imgsearch.encoders.class_probability import ClassProbability
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.model_file import read_card
from imgsearch.encoders.runtime import Encoder, encode, open_encoder
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.errors import ImageError, MissingComponentError, UsageError
from imgsearch.files import as_path
from imgsearch.images.decode import Pixels
from imgsearch.images.policy import FilePolicy
from imgsearch.images.reading import read_file
from imgsearch.images.steps import Steps
from imgsearch.images.workers.decoders import decode_and_fit_guarded


class Classifier:
    """A model with classes; open it with `Classifier.open`.

    Attributes:
        labels: Names of its classes.
    """

    def __init__(self, encoder: Encoder, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self._encoder = encoder

    @classmethod
    def open(cls, model: str | os.PathLike[str]) -> "Classifier":
        """Open a model; the first time it is exported to the user's cache, which takes Keras and some seconds.

        Args:
            model: A `.keras` file that `train` wrote.

        Raises:
            MissingComponentError: It is not there, or cannot be exported.
            UsageError: It is no such file, or has no classes.
        """
        path = as_path(model)
        card = read_card(path)
        if not card.labels:
            raise UsageError(
                f"{path} has no classes: it was trained for {card.objective}",
                hint="train it with --objective classify, or ask an index with query --vote",
            )
        choice = choose_encoder(os.fspath(path))
        if choice.spec.kind != "model":
            raise MissingComponentError(f"expected a .keras file, found {path}")
        # In f32, where bf16 would be faster: users see probabilities, and a single image takes no time.
        spec = replace(choice.spec, kind="classifier", dims=len(card.labels))
        return cls(open_encoder(spec, exported_encoder(spec, choice.files), for_one=True), card.labels)

    def classify(self, image: str | os.PathLike[str], k: int = 5) -> list[ClassProbability]:
        """Name the most probable classes of an image.

        Args:
            image: File name.
            k: How many classes at most; at least 1.

        Returns:
            The most probable classes, best first.

        Raises:
            ImageError: The image cannot be used.
        """
        spec = self.spec
        data, _ = read_file(os.fspath(image))
        pixels = decode_and_fit_guarded(data, spec.size, spec.fit, FilePolicy(), steps=Steps.parse(spec.steps))
        return self.classify_square(pixels, k)

    @property
    def spec(self) -> EncoderSpec:
        """What it sees of an image."""
        return self._encoder.spec

    def classify_square(self, pixels: Pixels, k: int = 5) -> list[ClassProbability]:
        """Name the most probable classes of a decoded image, fitted as `spec` says: RGB, uint8 (size, size, 3).

        Raises:
            ImageError: The model found nothing in it.
        """
        probabilities = encode(self._encoder, pixels[None])[0]
        if not all(0 <= probability <= 1.001 for probability in probabilities):  # NaN is not between them
            raise ImageError("bad_embedding", "the model found nothing in this image")
        best = sorted(range(len(self.labels)), key=lambda number: -probabilities[number])[:k]
        return [
            ClassProbability(rank, self.labels[number], min(1.0, float(probabilities[number])))
            for rank, number in enumerate(best, start=1)
        ]


def classify(
    image: str | os.PathLike[str], model: str | os.PathLike[str] | Classifier, k: int = 5
) -> list[ClassProbability]:
    """Predict the class of an image with a trained model.

    Args:
        image: File name.
        model: A `.keras` file that `train` wrote; for many images a `Classifier`, which is opened once.
        k: Maximum number of classes; at least 1.

    Returns:
        The most probable classes, best first.

    Raises:
        ImageError: The image cannot be used.
        MissingComponentError: The model is not there, or cannot be exported.
        UsageError: It is no such file, or has no classes.
    """
    return (model if isinstance(model, Classifier) else Classifier.open(model)).classify(image, k)
