"""Where two phases of strength switch, told as a percentage of the steps or as a noise level."""

from __future__ import annotations

import math
from typing import Any

import pytest

from customcrafter_core.diffusion.strength import strengths_of
from customcrafter_core.diffusion.switch import NoiseSwitch, PercentSwitch
from customcrafter_core.errors import InputError
from customcrafter_core.output.chart import strength_chart


@pytest.mark.parametrize(
    ("percent", "steps", "early"), [(10, 50, 5), (0, 50, 0), (100, 7, 7), (50, 5, 3), (49, 5, 2), (1, 10, 0)]
)
def test_a_percentage_is_rounded_to_whole_steps(percent: float, steps: int, early: int) -> None:
    assert strengths_of(PercentSwitch(0.4, 0.8, percent), steps) == [0.4] * early + [0.8] * (steps - early)


def test_lambda_l_holds_from_the_level_on() -> None:
    switch = NoiseSwitch(0.4, 0.8, 881, "timestep")
    assert [switch.at(level) for level in (999, 901, 881.5, 881.0003, 881, 880)] == [0.4, 0.4, 0.4, 0.8, 0.8, 0.8]
    assert [NoiseSwitch(0.4, 0.8, 0.5, "sigma").at(level) for level in (0.6, 0.5, 0.0)] == [0.4, 0.8, 0.8]


@pytest.mark.parametrize("value", [-1, 100.5, math.nan, math.inf, "half", None])
def test_percentages_out_of_range_are_refused(value: Any) -> None:
    with pytest.raises(InputError, match="a percentage of the steps from 0 to 100") as error:
        PercentSwitch(0.4, 0.8, value)
    assert str(value) in error.value.found


@pytest.mark.parametrize(
    ("unit", "value"), [("timestep", 1001), ("timestep", -1), ("sigma", -0.1), ("sigma", math.inf)]
)
def test_levels_out_of_range_are_refused(unit: Any, value: float) -> None:
    with pytest.raises(InputError, match=f"a {unit}"):
        NoiseSwitch(0.4, 0.8, value, unit)


def test_a_step_at_two_strengths_is_drawn_as_what_it_was() -> None:
    both, first, last = (strength_chart([[0.4, part, 0.8]]).tobytes() for part in ([0.4, 0.8], 0.4, 0.8))
    assert both != first and both != last
    assert strength_chart([[0.4, [0.4], 0.8]]).tobytes() == first
