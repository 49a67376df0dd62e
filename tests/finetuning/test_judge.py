"""Whether a trained file is kept: by samples that nothing was trained on, and beyond their chance."""

import pytest

from onnxq.finetuning.judge import verdict
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


def test_the_worst_part_must_not_lose():
    before = OutputNoise((1e-2, 5e-2), samples=[(2.5e-3, 1.25e-2)] * 4)
    after = OutputNoise((1e-4, 5.3e-2), samples=[(2.5e-5, 1.325e-2)] * 4)
    kept, reason = verdict(before, after)
    assert not kept
    assert "worst output" in reason
