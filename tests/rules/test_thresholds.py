"""Thresholds: validation, and round trips through the line of the reference code and through a file."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest

from sparsing.base.provenance import Provenance
from sparsing.errors import InputError
from sparsing.rules.thresholds import Thresholds, read_thresholds


def made(**changes) -> Thresholds:
    fields = {"rule": "cett", "level": 0.2, "on": "neuron_norm", "values": (0.125, 0.0, 3.0625e-2)}
    return Thresholds(**fields | changes)


def test_the_line_of_the_reference_and_back():
    assert made().to_line() == "thresholds=1.2500e-01,0.0000e+00,3.0625e-02"
    for line in (made().to_line(), "1.2500e-01,0.0,0.030625\n", " thresholds=0.125,0,3.0625e-2 "):
        read = Thresholds.from_line(line)
        assert read.values == made().values
        assert (read.on, read.select) == ("neuron_norm", "above")
        assert math.isnan(read.level)
        assert read.to_line() == made().to_line()


@pytest.mark.parametrize("line", ["", "thresholds=", "thresholds=1,,2", "threshold=1,2", "1 2 3", "a,b"])
def test_a_line_that_is_none(line):
    with pytest.raises(InputError, match="cannot read thresholds from"):
        Thresholds.from_line(line)


def test_only_cuts_of_neuron_norm_fit_the_line():
    with pytest.raises(
        InputError, match=r"can only hold cuts of neuron_norm, this is above on gate; keep the"
    ):
        made(rule="fat", on="gate").to_line()
    with pytest.raises(InputError, match="this is top_k on neuron_norm"):
        made(select="top_k").to_line()


@pytest.mark.parametrize("values", [(), (0.1, -1e-9), (math.nan,), (math.inf, 0.0)])
def test_values_must_be_finite_and_not_negative(values):
    with pytest.raises(InputError, match="thresholds must be finite numbers >= 0, one per layer"):
        made(values=values)


@pytest.mark.parametrize("centres", [(0.1, 0.2), (0.1, math.nan, 0.2), ()])
def test_there_is_one_finite_centre_per_site(centres):
    with pytest.raises(InputError, match=r"one finite centre per site, got \d for 3 sites"):
        made(on="h_centred", centres=centres)
    assert made(on="h_centred", centres=(0.0, -0.1, 0.2)).centres == (0.0, -0.1, 0.2)


def test_shares_are_at_most_one():
    with pytest.raises(InputError, match=r"the numbers of top_k are shares in \[0, 1\], got 50"):
        made(select="top_k", values=(0.5, 50, 0.5))


def test_unknown_scores_and_selections():
    with pytest.raises(InputError, match=r"Unknown score 'gates'\. Did you mean: gate"):
        made(on="gates")
    with pytest.raises(InputError, match=r"Unknown selection 'topk'\. Did you mean: top_k"):
        made(select="topk")


def test_the_number_of_layers():
    four = sites(*(f"model.layers.{i}.mlp.down_proj" for i in range(4)))
    assert made().for_sites(four[:3]) == tuple((number,) for number in made().numbers)
    with pytest.raises(
        InputError, match=r"3 thresholds for a model of 4 sites \(neuron_norm\); give one per layer"
    ):
        made().for_sites(four)


def test_the_folder_of_a_run_stands_for_its_only_thresholds(tmp_path):
    path = made().save(tmp_path / "run" / "cett-ppl-1" / "thresholds.json")
    for folder in (path.parent, tmp_path / "run"):
        assert read_thresholds(folder) == made()
    other = made(level=0.3).save(tmp_path / "run" / "cett-0.3" / "thresholds.json")
    with pytest.raises(InputError, match=r"holds 2 files thresholds\.json; give one of them") as error:
        read_thresholds(tmp_path / "run")
    assert str(path) in str(error.value)
    assert str(other) in str(error.value)
    with pytest.raises(InputError, match=r"holds 0 files thresholds\.json; `sparsing measure` writes it"):
        read_thresholds(tmp_path)


@pytest.mark.parametrize(
    ("fields", "condition"),
    [
        ({}, "h.abs() > cut"),
        ({"on": "gate"}, "gate.abs() > cut"),
        ({"on": "up"}, "up.abs() > cut"),
        ({"on": "x_norm"}, "x.abs() > cut"),
        ({"on": "neuron_norm+x"}, "h.abs() > cut, x.abs() > cut"),
        ({"on": "pre_gate"}, ""),
        ({"on": "h_centred", "centres": (0.0, 0.0, 0.0)}, ""),
        ({"select": "top_k"}, ""),
    ],
)
def test_the_condition_of_cuts(fields, condition):
    assert made(**fields).cut_condition == condition


def test_saved_and_read_again(tmp_path):
    whole = made(target_ppl_ratio=1.01, provenance=Provenance(model="m", versions={"torch": "2"}))
    assert Thresholds.load(whole.save(tmp_path / "t.json")) == whole
    assert Thresholds.load(made().save(tmp_path / "t.json")) == made()


def sites(*names: str) -> list[SimpleNamespace]:
    return [SimpleNamespace(name=name, kind="ffn", n_experts=1) for name in names]


def test_routed_experts_have_one_number_or_one_each():
    shared, routed = sites("layers.0.mlp.shared.down_proj", "layers.0.mlp.experts")
    routed.kind, routed.n_experts = "expert", 2
    values = {"layers.0.mlp.shared.down_proj": 0.1, "layers.0.mlp.experts": 0.2}
    assert made(values=values).for_sites([shared, routed]) == ((0.1,), (0.2,))
    each = {
        "layers.0.mlp.shared.down_proj": 0.1,
        "layers.0.mlp.experts.0": 0.2,
        "layers.0.mlp.experts.1": 0.3,
    }
    assert made(values=each).for_sites([shared, routed]) == ((0.1,), (0.2, 0.3))
    with pytest.raises(InputError, match=r"one per layer \(or one per routed expert\)"):
        made(values=(0.1, 0.2, 0.3, 0.4)).for_sites([shared, routed])
    with pytest.raises(InputError, match="cannot have one number per expert"):
        made(values=each, select="top_k").for_sites([shared, routed])


def test_names_of_sites_have_to_agree_but_for_a_prefix_of_all():
    named = made(values={"model.layers.0.mlp.down_proj": 0.1, "model.layers.1.mlp.down_proj": 0.2})
    plain = sites("model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj")
    wrapped = sites("_orig_mod.model.layers.0.mlp.down_proj", "_orig_mod.model.layers.1.mlp.down_proj")
    assert named.for_sites(plain) == named.for_sites(wrapped) == ((0.1,), (0.2,))
    with pytest.raises(
        InputError, match=r"are for 'model\.layers\.0\.mlp\.down_proj' where the model has 'h\.0'"
    ):
        named.for_sites(sites("h.0", "h.1"))
    with pytest.raises(InputError, match="where the model has"):
        named.for_sites(plain[::-1])


def test_a_file_of_schema_1_loads_by_position(tmp_path):
    path = made().save(tmp_path / "t.json")
    document = json.loads(path.read_text())
    assert document["values"] == {"#0": 0.125, "#1": 0.0, "#2": 3.0625e-2}
    old = document | {"kind": "Thresholds", "schema_version": 1, "values": [0.125, 0.0, 3.0625e-2]}
    path.write_text(json.dumps(old))
    assert Thresholds.load(path) == made()
    assert not made().has_names
