"""Changes of images."""

import numpy as np

from onnxq.techniques.augmentation import Change, changed, image_axes

PLAIN = Change(False, (0.0, 0.0), 1.0)


def test_images_are_told_from_other_inputs() -> None:
    assert image_axes(np.zeros((1, 3, 32, 40), np.float32)) == (2, 3)
    assert image_axes(np.zeros((1, 32, 40, 1), np.float32)) == (1, 2)
    assert image_axes(np.zeros((1, 8, 32, 40), np.float32)) is None
    assert image_axes(np.zeros((1, 3, 4, 4), np.float32)) is None
    assert image_axes(np.zeros((1, 128), np.int64)) is None


def test_flip_shift_and_mixture() -> None:
    image = np.arange(16 * 16, dtype=np.float32).reshape(1, 1, 16, 16)
    np.testing.assert_array_equal(changed(image, PLAIN), image)
    np.testing.assert_array_equal(changed(image, Change(True, (0, 0), 1.0)), image[..., ::-1])
    moved = changed(image, Change(False, (0.125, 0.0), 1.0))
    np.testing.assert_array_equal(moved[:, :, :14], image[:, :, 2:])
    np.testing.assert_array_equal(moved[:, :, 14:], np.repeat(image[:, :, 15:], 2, axis=2))
    mixed = changed(image, Change(False, (0, 0), 0.75), np.zeros_like(image))
    np.testing.assert_allclose(mixed, 0.75 * image)


def test_a_seed_draws_the_same_change() -> None:
    assert Change.draw(np.random.default_rng(5)) == Change.draw(np.random.default_rng(5))
