import pytest

from onnxq.runtime.release import runtime_release


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("1.23.0", (1, 23)),
        ("1.31.1+cpu", (1, 31)),
        ("1.24.0.dev20260101", (1, 24)),
        ("2.0", (2, 0)),
        ("?", (0, 0)),
    ],
)
def test_the_release_is_two_numbers(version, release):
    assert runtime_release(version) == release


def test_the_installed_runtime_is_one_that_onnxq_supports():
    assert runtime_release() >= (1, 23)
