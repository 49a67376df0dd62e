"""Whether a trained file is kept: by samples that nothing was trained on, and beyond their chance."""

import math

import pytest

from onnxq.finetuning.judge import typical_gain, verdict
from onnxq.search.references import OutputNoise


def noise(samples, worst=0.0):
    """Return the noise of two parts with these contributions of the samples to the first one."""
    return OutputNoise((sum(samples), worst), samples=[(each, 0.0) for each in samples])


BEFORE = noise([2e-3, 1e-3, 3e-3, 2e-3])


@pytest.mark.parametrize(
    ("after", "kept", "reason"),
    [
        (noise([1e-3, 5e-4, 2e-3, 1e-3]), True, "closer to float on samples that nothing was trained on"),
        (noise([2e-3, 1e-3, 3e-3, 2e-3]), False, "no closer to float"),
        # one sample of four gains much, and the others lose
        (noise([2.3e-3, 1.4e-3, 1.2e-3, 2.5e-3]), False, "may be chance"),
        (noise([1e-3, 5e-4, 2e-3, 1e-3], worst=1.0), False, "no closer to float"),
    ],
)
def test_a_gain_beyond_chance_is_kept(after, kept, reason):
    found, why = verdict(BEFORE, after)
    assert found is kept
    assert reason in why


def test_typical_samples_gain_not_one_alone():
    # a detector that finds something in one image of eight: that one gains, and the others lose
    alone = noise([1e-2, *[2e-4] * 7]), noise([5e-3, *[3e-4] * 7])
    assert verdict(*alone) == (False, "its gain on the samples that decide may be chance")
    # all gain but the one
    others = noise([1e-2, *[2e-3] * 7]), noise([1.1e-2, *[1e-3] * 7])
    assert verdict(*others)[0]
    # noise far below the others' does not count, whatever its ratio
    quiet = noise([4e-3, 3e-3, 5e-3, *[1e-12] * 9]), noise([3e-3, 2e-3, 4e-3, *[1e-9] * 9])
    assert verdict(*quiet)[0]


def test_equal_files_gain_nothing():
    assert typical_gain(BEFORE, BEFORE) == 0


def test_outputs_that_count_as_equal_to_float_stay():
    before, after = noise([1e-5] * 4), noise([1e-6] * 4)
    assert verdict(before, after) == (
        False,
        "the file before counts as equal to float on the samples that decide",
    )
    assert verdict(noise([1e-5] * 4, worst=1e-2), noise([1e-6] * 4, worst=1e-3))[0]


def test_anything_is_better_than_a_file_that_does_not_run():
    assert verdict(OutputNoise((math.inf, math.inf)), BEFORE)[0]
    assert verdict(noise([1e-3, math.inf, 1e-3, 1e-3]), BEFORE)[0]


def test_the_worst_part_must_not_lose():
    before = OutputNoise((1e-2, 5e-2), samples=[(2.5e-3, 1.25e-2)] * 4)
    after = OutputNoise((1e-4, 5.3e-2), samples=[(2.5e-5, 1.325e-2)] * 4)
    kept, reason = verdict(before, after)
    assert not kept
    assert "worst output" in reason
