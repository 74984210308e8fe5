"""The registry: names are unique, and an unknown name gets a suggestion."""

from __future__ import annotations

import pytest

from sparsing.base.registry import Registry
from sparsing.errors import InputError, SparsityError


@pytest.fixture
def colours() -> Registry[int]:
    registry: Registry[int] = Registry("colour")
    registry.register("red", 1)
    registry.register("blue", 2)
    return registry


def test_a_mapping_in_order_of_name(colours):
    assert list(colours) == ["blue", "red"]
    assert len(colours) == 2
    assert colours["red"] == 1
    assert "red" in colours
    assert "green" not in colours
    assert colours.register("green", 3) == 3


def test_a_name_is_taken_once(colours):
    with pytest.raises(ValueError, match="colour 'red' is already registered by 1"):
        colours.register("red", 3)
    assert colours["red"] == 1


def test_a_near_name_is_suggested_and_a_far_one_is_not(colours):
    with pytest.raises(
        InputError, match=r"^Unknown colour 'rde'\. Did you mean: red\? Available: blue, red\.$"
    ):
        colours["rde"]
    with pytest.raises(SparsityError, match=r"^Unknown colour 'xyz'\. Available: blue, red\.$"):
        colours["xyz"]
