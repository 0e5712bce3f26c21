"""Standard errors: drawings count, and repetitions of a drawing do not."""

import numpy as np
import pytest

from tools.starter.bootstrap import standard_error


def test_one_value_for_each_drawing_has_the_error_of_independent_values() -> None:
    values = np.random.default_rng(1).normal(size=400)

    found = standard_error(values, np.arange(400))

    assert found == pytest.approx(values.std() / 20, rel=0.05)


def test_repetitions_of_a_drawing_make_no_figure_surer() -> None:
    values = np.random.default_rng(1).random(200) < 0.3

    once = standard_error(values, np.arange(200))
    repeated = standard_error(np.repeat(values, 9), np.repeat(np.arange(200), 9))

    assert repeated == pytest.approx(once)
    assert standard_error(np.repeat(values, 9), np.arange(1800)) < 0.4 * once


def test_drawings_that_agree_leave_no_error() -> None:
    assert standard_error([1, 1, 1, 1], [7, 3, 3, 9]) == 0
    # Of one drawing alone nothing is known about others.
    assert standard_error([0, 1], [5, 5]) == 0
