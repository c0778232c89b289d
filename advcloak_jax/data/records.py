"""One picture to one record of a prepared set, a serialised tf.train.Example, and back."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from advcloak_jax.config import Encoding, PrepareConfig
from advcloak_jax.data.decode import BadImageError, fit, rgb_of_bytes

_ORIENTATION, _UPRIGHT = 0x0112, 1  # of EXIF


class Encoded(NamedTuple):
    """image: what the record holds: a JPEG file's bytes, or pixels [S, S, 3]. resized: whether it had another size."""

    image: bytes | np.ndarray
    resized: bool


def encode(data: bytes, config: PrepareConfig) -> Encoded:
    """A picture's file as it is to be stored. Raises BadImageError.

    An upright RGB JPEG of the right size keeps its bytes, and so its pixels; anything else is encoded again.
    """
    picture = rgb_of_bytes(data)  # also finds what is damaged
    pixels, resized = fit(picture, config.image_size)
    if config.encoding == "raw":
        return Encoded(pixels, resized)
    if _keeps_its_bytes(data, config.image_size):
        return Encoded(data, False)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=config.jpeg_quality, subsampling=0)
    return Encoded(stream.getvalue(), resized)


def _keeps_its_bytes(data: bytes, size: int) -> bool:
    with Image.open(io.BytesIO(data)) as image:
        turned = image.getexif().get(_ORIENTATION, _UPRIGHT) != _UPRIGHT
        return image.format == "JPEG" and image.mode == "RGB" and image.size == (size, size) and not turned


def features(encoding: Encoding, size: int) -> Any:
    """TFDS's features of a record: its image and its identity's name."""
    import tensorflow_datasets as tfds  # here, because importing it costs seconds on a cold machine

    image = (
        tfds.features.Image(shape=(size, size, 3), encoding_format="jpeg")
        if encoding == "jpeg"
        else tfds.features.Tensor(shape=(size, size, 3), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES)
    )
    return tfds.features.FeaturesDict({"image": image, "identity": tfds.features.Text()})


def serialise(connectors: Any, image: bytes | np.ndarray, identity: str) -> bytes:
    """One record of `features`: the same bytes in every process.

    TFDS leaves the order of the two fields to protobuf, which draws it anew for each process.
    """
    from tensorflow_datasets.proto import tf_example_pb2

    values = {"image": io.BytesIO(image) if isinstance(image, bytes) else image, "identity": identity}
    record = tf_example_pb2.Example.FromString(connectors.serialize_example(values))
    found: bytes = record.SerializeToString(deterministic=True)
    return found


def picture(record: bytes, encoding: Encoding, stored_size: int, image_size: int) -> np.ndarray:
    """Decode one record, a serialised tf.train.Example, to [image_size, image_size, 3] uint8. Raises BadImageError."""
    from tensorflow_datasets.proto import tf_example_pb2

    values: Sequence[bytes] = tf_example_pb2.Example.FromString(record).features.feature["image"].bytes_list.value
    if len(values) != 1:
        raise BadImageError("its record holds no image")
    if encoding == "jpeg":
        return fit(rgb_of_bytes(values[0]), image_size)[0]
    if len(values[0]) != 3 * stored_size**2:
        raise BadImageError(f"its record holds {len(values[0])} bytes")
    pixels = np.frombuffer(values[0], np.uint8).reshape(stored_size, stored_size, 3)
    return pixels if stored_size == image_size else fit(Image.fromarray(pixels), image_size)[0]
