"""The matrix of `down_proj` is the matrix that runs: with adapters, offloaded, quantised; anything else is refused."""

from __future__ import annotations

import copy
import importlib

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

from sparsing.decode.kernels.packing import gate_and_up
from sparsing.errors import UnsupportedModelError
from sparsing.measuring._measure import measure
from sparsing.measuring.subject import Subject
from sparsing.measuring.weight_bytes import count_parameters, site_weights
from sparsing.models.identity import digest_weights
from sparsing.models.loading import LoadedModel
from sparsing.rules.mask import sparsify
from sparsing.rules.thresholds import Thresholds
from sparsing.sites.discovery import find_sites
from sparsing.sites.effective_weight import is_plain

from ..helpers.coded import Codes
from ..helpers.measuring import loaded, text_corpus
from ..helpers.tiny import SIZES, build, tiny_tokenizer

CUTS = Thresholds(rule="cett", level=0.2, on="neuron_norm", values=[0.3, 0.3])

pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"  # peft 0.21 with transformers 5.24
)

peft = pytest.importorskip("peft", reason="needs peft: pip install 'sparsing[adapters]'")
accelerate = pytest.importorskip("accelerate", reason="needs accelerate: pip install 'sparsing[auto]'")


def adapted(model_type: str = "llama", target=("down_proj", "up_proj"), **options):
    """A model with random LoRA matrices; without `init_lora_weights=False` they would change nothing."""
    config = peft.LoraConfig(
        r=4, lora_alpha=64, lora_dropout=0.5, target_modules=list(target), init_lora_weights=False, **options
    )
    torch.manual_seed(1)
    return peft.get_peft_model(build(model_type), config).eval()


def merged(model):
    return copy.deepcopy(model).merge_and_unload()


def logits(model, ids) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def assert_same_norms(model, wanted) -> None:
    plain = find_sites(build("llama"))
    for site, right, base in zip(find_sites(model), find_sites(wanted), plain, strict=False):
        assert not is_plain(site.down_proj)
        torch.testing.assert_close(site.weight, right.weight)
        torch.testing.assert_close(site.column_norms(), right.column_norms())
        assert (site.d_model, site.d_ff, site.device) == (right.d_model, right.d_ff, right.device)
        if type(model).__name__ == "PeftModel":
            assert (site.column_norms() - base.column_norms()).abs().max() > 0.1


@pytest.mark.parametrize("model_type", sorted(SIZES))
def test_the_projections_of_every_family_are_plain(model_type, tiny_model):
    for site in find_sites(tiny_model(model_type)):
        assert is_plain(site.down_proj)
        assert site.weight.data_ptr() == site.down_proj.weight.data_ptr()


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True}], ids=str)
def test_lora_that_is_not_merged(options):
    model = adapted(**options)
    assert_same_norms(model, merged(model))


def test_lora_on_a_transposed_projection():
    model = adapted("gpt2", ["mlp.c_proj"], fan_in_fan_out=True)
    for site, right in zip(find_sites(model), find_sites(merged(model)), strict=True):
        torch.testing.assert_close(site.weight, right.weight)
        torch.testing.assert_close(site.bias, right.bias)


def test_a_measurement_with_an_adapter_equals_that_of_the_merged_model():
    model, corpus = adapted(), text_corpus(400)
    wrapped = Subject(LoadedModel.of(model, tiny_tokenizer()), corpus)
    plain = Subject(loaded(merged(model)), corpus)
    results = [measure(subject, "cett", level=0.3) for subject in (wrapped, plain)]
    assert results[0].activation_ratio == pytest.approx(results[1].activation_ratio, abs=1e-3)
    assert results[0].thresholds.numbers == pytest.approx(results[1].thresholds.numbers, rel=1e-3)
    assert results[0].cett_dense_inputs == pytest.approx(results[1].cett_dense_inputs, rel=1e-2)
    assert results[0].ppl_sparse == pytest.approx(results[1].ppl_sparse, rel=1e-4)


def test_sparsify_takes_the_wrapper_of_peft(tiny_input):
    model = adapted()
    ids, plain = tiny_input(), merged(model)
    dense = logits(model, ids)
    with sparsify(model, CUTS) as sparse, sparsify(plain, CUTS):
        assert sparse is model
        torch.testing.assert_close(logits(model, ids), logits(plain, ids), rtol=1e-4, atol=1e-4)
        assert (logits(model, ids) - dense).abs().max() > 0.1


def test_an_adapter_that_is_switched_off_does_not_count():
    model = adapted()
    on = find_sites(model)[0].column_norms()
    with model.disable_adapter():
        off = find_sites(model)[0].column_norms()
    torch.testing.assert_close(off, find_sites(build("llama"))[0].column_norms())
    assert (on - off).abs().max() > 0.1


def test_ia3_scales_the_input_of_down_proj():
    torch.manual_seed(1)
    config = peft.IA3Config(
        target_modules=["down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False
    )
    model = peft.get_peft_model(build("llama"), config).eval()
    assert_same_norms(model, merged(model))


def test_a_projection_that_is_trained_as_a_copy():
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["down_proj"])
    model = peft.get_peft_model(build("llama"), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter.mul_(3)
    for site, base in zip(find_sites(model), find_sites(build("llama")), strict=True):
        torch.testing.assert_close(site.column_norms(), 3 * base.column_norms())


def test_adapters_that_add_virtual_tokens_are_refused():
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(UnsupportedModelError, match="a PROMPT_TUNING adapter does not act in the layers"):
        find_sites(peft.get_peft_model(build("llama"), config))


def test_kernels_refuse_an_adapter_that_is_not_merged():
    """They would read the weights without it."""
    for target in ("down_proj", "gate_proj"):
        with pytest.raises(UnsupportedModelError, match="kernels read plain weights"):
            gate_and_up(find_sites(adapted(target=[target]))[0])


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_offloaded_weights(where, tiny_input, tmp_path):
    plain, model, ids = build("llama"), build("llama"), tiny_input()
    if where == "cpu":
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        accelerate.disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    assert find_sites(model)[0].down_proj.weight.is_meta
    assert_same_norms(model, plain)
    with sparsify(model, CUTS), sparsify(plain, CUTS):
        assert torch.equal(logits(model, ids), logits(plain, ids))
    corpus = text_corpus(400)
    results = [measure(Subject(loaded(m), corpus), "cett", level=0.3) for m in (model, plain)]
    assert results[0].thresholds.numbers == pytest.approx(results[1].thresholds.numbers, rel=1e-5)
    assert results[0].ppl_sparse == pytest.approx(results[1].ppl_sparse, rel=1e-6)


def test_weights_that_accelerate_has_dispatched_without_offloading_are_plain():
    model = build("llama")
    accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)
    assert all(is_plain(site.down_proj) for site in find_sites(model))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_inputs_that_are_rounded_to_eight_bits_are_refused():
    """Dynamic quantisation rounds `h` by its largest entry, so the output of a neuron depends on other neurons."""
    model = torch.ao.quantization.quantize_dynamic(build("llama"), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(UnsupportedModelError, match="is not the sum of the columns of its weight times h"):
        find_sites(model)


class Squared(Codes):
    def forward(self, x):
        return super().forward(x) ** 2


def replace_down(make):
    model = build("llama")
    for layer in model.model.layers:
        layer.mlp.down_proj = make(layer.mlp.down_proj)
    return model


def test_weights_that_are_stored_as_codes():
    model = replace_down(Codes)
    for site, base in zip(find_sites(model), find_sites(build("llama")), strict=True):
        torch.testing.assert_close(site.weight, base.weight.detach(), rtol=0, atol=0.02)
        torch.testing.assert_close(site.bias, torch.arange(32) / 10)


def saved(folder) -> str:
    """A checkpoint with sizes that the 4-bit kernels can pack."""
    build("llama", hidden_size=128, intermediate_size=256).to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


def load_quantised(folder, config, dtype=torch.bfloat16):
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, device_map="cpu", dtype=dtype
    ).eval()


QUANTISED = {
    "bitsandbytes, 4 bits": lambda: BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16
    ),
    "bitsandbytes, 8 bits": lambda: BitsAndBytesConfig(load_in_8bit=True),
    "torchao, 8 bits": lambda: TorchAoConfig(
        importlib.import_module("torchao.quantization").Int8WeightOnlyConfig()
    ),
}


@pytest.mark.filterwarnings("ignore")  # both libraries warn about parts for GPUs
@pytest.mark.parametrize("kind", QUANTISED)
def test_models_that_a_library_has_quantised(kind, tmp_path, tiny_input):
    pytest.importorskip(kind.split(",")[0], reason="pip install bitsandbytes torchao")
    model = load_quantised(saved(tmp_path), QUANTISED[kind]())
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = tiny_input()
    dense = logits(model, ids)
    assert count_parameters(model, find_sites(model)) == count_parameters(plain, find_sites(plain))
    assert digest_weights(loaded(model)) != digest_weights(loaded(plain))
    for site, base in zip(find_sites(model), find_sites(plain), strict=True):
        bits = 8 * site_weights(model, site).bytes / site_weights(plain, base).parameters
        # bitsandbytes has a scale of 16 or 32 bits per 64 codes of 4 bits
        assert (4.2 if "4 bits" in kind else 8.0) <= bits <= (4.5 if "4 bits" in kind else 8.5)
        assert not is_plain(site.down_proj)
        error = (site.weight.float() - base.weight).norm() / base.weight.norm()
        assert 0.001 < error < (0.2 if "4 bits" in kind else 0.02)
        # the columns of the matrix are what the module itself gives for one neuron
        h = torch.zeros(1, site.d_ff, dtype=torch.bfloat16)
        h[0, 3] = 1.0
        with torch.no_grad():
            own = site.down_proj(h).float().norm()
        torch.testing.assert_close(site.column_norms()[3], own, rtol=0.01, atol=0)
    zero = Thresholds(rule="cett", level=0.0, on="neuron_norm", values=[0.0, 0.0])
    with sparsify(model, zero):
        assert torch.equal(logits(model, ids), dense)
    with sparsify(model, CUTS):
        assert not torch.equal(logits(model, ids), dense)


def test_a_projection_that_is_no_matrix_is_refused():
    with (
        pytest.raises(UnsupportedModelError, match="whose output is not a matrix times its input"),
        sparsify(replace_down(Squared), CUTS),
    ):
        pass


def test_weights_that_are_divided_over_processes_are_refused():
    """As FSDP and ZeRO-3 leave them outside of a forward."""

    def part(linear):
        linear.weight = nn.Parameter(torch.empty(0))
        return linear

    with pytest.raises(
        UnsupportedModelError, match=r"only a part of model\.layers\.0\.mlp\.down_proj\.weight"
    ):
        find_sites(replace_down(part))


def test_weights_with_a_parametrisation_are_read_through_it():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    def doubled(linear):
        nn.utils.parametrize.register_parametrization(linear, "weight", Doubled())
        return linear

    for site, base in zip(find_sites(replace_down(doubled)), find_sites(build("llama")), strict=True):
        torch.testing.assert_close(site.column_norms(), 2 * base.column_norms())
