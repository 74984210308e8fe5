"""One neuron of a study, found by its name in the table, equals the numbers of the study."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from sparsing.errors import InputError
from sparsing.neurons.lookup import NEURONS_FILE, find_neuron, find_study
from sparsing.neurons.store import write_study
from sparsing.rules.thresholds import Thresholds

from ..helpers.measuring import text_corpus, tiny_loaded


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A study and its run folder."""
    folder = tmp_path_factory.mktemp("run")
    cuts = Thresholds(rule="cett", level=0.1, on="neuron_norm", values=(0.03, 0.05))
    corpora = {"a": text_corpus(200, window=40), "b": text_corpus(90, window=40, seed=1)}
    return write_study(tiny_loaded(), corpora, folder / "neurons", thresholds=cuts, contexts=3), folder


def test_a_neuron_has_the_numbers_of_the_study(stored):
    study, folder = stored
    found = find_neuron(find_study(folder), "1.7")
    assert found.name == "1.7"
    assert found.frequency == {"a": study.frequency[0][1, 7], "b": study.frequency[1][1, 7]}
    assert (found.mean_norm, found.max_norm) == (study.mean_norm[1, 7], study.max_norm[1, 7])
    assert [name for name, _ in found.neighbours] == [f"1.{i}" for i in study.neighbour[1, 7] if i >= 0]
    assert len(found.promoted) == len(found.demoted) == 6
    assert 1 <= len(found.contexts) <= 3
    assert abs(found.contexts[0].value) == pytest.approx(found.max_norm)
    assert found.to_dict()["contexts"][0]["token"] == found.contexts[0].token


def test_a_table_with_names_is_read_by_them(stored, tmp_path):
    """In a layer with routed experts a name has three parts."""
    _, folder = stored
    table = pq.read_table(find_study(folder))
    count = table.num_rows
    names = [f"0.{i // 4}.{i % 4}" for i in range(count // 2)] + [f"1.{i}" for i in range(count // 2)]
    write_layers(table.drop_columns("name").append_column("name", [names]), tmp_path)
    found = find_neuron(tmp_path / NEURONS_FILE, "0.2.3")
    plain = find_neuron(find_study(folder), "0.11")
    assert found.frequency == plain.frequency
    assert [name.count(".") for name, _ in found.neighbours] == [2] * len(found.neighbours)
    with pytest.raises(InputError, match=r"layer 0 has 0\.0\.0 to 0\.\d+\.3$"):
        find_neuron(tmp_path / NEURONS_FILE, "0.11")


def test_a_table_without_names_is_read_by_layer_and_number(stored, tmp_path):
    """Files of earlier versions have no column of names."""
    _, folder = stored
    table = find_study(folder)
    write_layers(pq.read_table(table).drop_columns(["name", "site"]), tmp_path)
    assert find_neuron(tmp_path / NEURONS_FILE, "1.7") == find_neuron(table, "1.7")


def write_layers(table, folder):
    """Writes a table of two layers with a row group per layer."""
    with pq.ParquetWriter(folder / NEURONS_FILE, table.schema) as writer:
        for half in (0, table.num_rows // 2):
            writer.write_table(table.slice(half, table.num_rows // 2))


def test_what_is_not_there(stored, tmp_path):
    study, folder = stored
    last = study.mean_norm.shape[1] - 1
    with pytest.raises(
        InputError, match=rf"there is no neuron '1\.9999' in .*layer 1 has 1\.0 to 1\.{last}$"
    ):
        find_neuron(find_study(folder), "1.9999")
    with pytest.raises(InputError, match=rf"there is no neuron '7\.0' in .*it has 0\.0 to 1\.{last}$"):
        find_neuron(find_study(folder), "7.0")
    with pytest.raises(InputError, match=r"there is no study of neurons in .*sparsing neurons MODEL"):
        find_study(tmp_path)
    shutil.copytree(folder, tmp_path / "x")
    shutil.copytree(folder, tmp_path / "y")
    with pytest.raises(
        InputError, match=r"holds 2 studies of neurons; give one of them: .*x/neurons, .*y/neurons"
    ):
        find_study(tmp_path)
    broken = tmp_path / "z" / NEURONS_FILE
    broken.parent.mkdir()
    broken.write_bytes(b"PAR1 broken PAR1")
    with pytest.raises(InputError, match=r"cannot read .*; run `sparsing neurons` again"):
        find_neuron(find_study(tmp_path / "z"), "1.7")


def test_it_needs_no_torch():
    code = "import sys, sparsing.neurons.lookup; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
