"""Checkpoints: what is saved comes back bit for bit, without dense weights on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import lowbit
import pytest
import torch
from lowbit import (
    BinaryMoS,
    BipolarInt,
    ChannelCodebook,
    GroupedSigns,
    OneBit,
    ScalarCodebook,
    VectorCodebook,
    load_pretrained,
    replace_linear,
    save_pretrained,
)
from lowbit.errors import BackendError, CheckpointError, FormatError
from lowbit.modules import PackedEmbedding, TiedEmbedding, make_linear
from safetensors import safe_open
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests import tiny_models as models

W6 = BipolarInt(6, group_size=32)
SCHEMES = [
    BinaryMoS(experts=2),
    OneBit(scale_dtype="bfloat16"),
    GroupedSigns(32),
    BipolarInt(3, 8, group_size=-1, asymmetric=True),
    ChannelCodebook(clusters=8, rank=2),
    ChannelCodebook(clusters=8, rank=0, axis=1),
    ScalarCodebook(bits=2, outlier_fraction=0.02),
    VectorCodebook(codebooks=1, vector_size=8),
]


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 48), nn.BatchNorm1d(48), nn.Linear(48, 20, bias=False))


def names_in(directory: Path) -> set[str]:
    with safe_open(directory / "model.safetensors", "pt") as file:
        return set(file.keys())


# ---- round trips ----


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
def test_every_scheme(scheme, tmp_path: Path) -> None:
    model = mlp().eval()
    replace_linear(model, scheme)
    save_pretrained(model, tmp_path / "c")
    other = load_pretrained(tmp_path / "c", model=mlp().eval())
    x = torch.randn(3, 32)
    assert torch.equal(other(x), model(x))
    assert other[0].scheme == scheme
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_labels_of_two_bytes(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 300))
    replace_linear(model, ChannelCodebook(clusters=280, rank=0))
    assert model[0].get_buffer("labels").dtype == torch.uint16
    save_pretrained(model, tmp_path / "c")
    other = load_pretrained(tmp_path / "c", model=nn.Sequential(nn.Linear(4, 300)))
    assert torch.equal(other[0].dequantize(), model[0].dequantize())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_llama(dtype: torch.dtype, tmp_path: Path) -> None:
    model = models.llama(dtype=dtype)
    replace_linear(model, W6, overrides={"v_proj": GroupedSigns(32)})
    expected = models.logits(model)
    save_pretrained(model, tmp_path / "c")
    other = load_pretrained(tmp_path / "c")
    assert type(other) is type(model)
    assert other.dtype == dtype
    assert not other.training
    assert torch.equal(models.logits(other), expected)
    assert other.model.layers[0].self_attn.v_proj.scheme == GroupedSigns(32)
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == str(dtype).removeprefix("torch.")
    section = config["quantization_config"]
    assert section["quant_method"] == "lowbit"
    assert section["format"] == "bipolar_int"
    assert section["modules_to_not_convert"] == ["lm_head"]
    assert len(section["layers"]) == 14
    assert not any(parameter.is_meta for parameter in other.parameters())
    a = model.generate(models.token_ids(1, 4), max_new_tokens=4, do_sample=False)
    assert torch.equal(other.generate(models.token_ids(1, 4), max_new_tokens=4, do_sample=False), a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tied_head_is_in_the_file_once(dtype: torch.dtype, tmp_path: Path) -> None:
    model = models.gemma3(dtype)
    replace_linear(model, W6, overrides={"lm_head": W6})
    expected = models.logits(model)
    save_pretrained(model, tmp_path / "c")
    head = {name for name in names_in(tmp_path / "c") if "embed" in name or "lm_head" in name}
    assert head == {"lm_head.weight", "lm_head.scales"}
    other = load_pretrained(tmp_path / "c")
    assert isinstance(other.model.embed_tokens, TiedEmbedding)
    assert other.model.embed_tokens.head is other.lm_head
    assert torch.equal(models.logits(other), expected)
    other.tie_weights()
    assert torch.equal(models.logits(other), expected)


def test_dense_tied_head_stays_tied(tmp_path: Path) -> None:
    model = models.llama(tied=True)
    replace_linear(model, W6)
    save_pretrained(model, tmp_path / "c")
    assert len({"lm_head.weight", "model.embed_tokens.weight"} & names_in(tmp_path / "c")) == 1
    other = load_pretrained(tmp_path / "c")
    assert other.lm_head.weight is other.model.embed_tokens.weight
    assert torch.equal(models.logits(other), models.logits(model))


def test_conv1d_and_own_embedding(tmp_path: Path) -> None:
    model = models.gpt2()
    replace_linear(model, W6, overrides={"transformer.wpe": BipolarInt(8, group_size=32)})
    save_pretrained(model, tmp_path / "c")
    other = load_pretrained(tmp_path / "c")
    assert isinstance(other.transformer.wpe, PackedEmbedding)
    assert torch.equal(models.logits(other), models.logits(model))


def test_shared_layers_come_back_shared(tmp_path: Path) -> None:
    def build() -> nn.ModuleList:
        torch.manual_seed(0)
        first = nn.Linear(32, 32, bias=False)
        model = nn.ModuleList([first, nn.Linear(32, 32, bias=False), nn.Linear(32, 32), first])
        model[1].weight = model[2].weight = first.weight
        return model

    model = build()
    replace_linear(model, W6)
    save_pretrained(model, tmp_path / "c")
    assert names_in(tmp_path / "c") == {"0.weight", "0.scales", "2.bias"}
    other = load_pretrained(tmp_path / "c", model=build())
    assert other[0] is other[1] is other[3]
    assert other[2].get_buffer("weight") is other[0].get_buffer("weight")
    x = torch.randn(2, 32)
    for a, b in zip(model, other, strict=True):
        assert torch.equal(a(x), b(x))


def test_layers_that_came_packed_have_an_implied_scheme(tmp_path: Path) -> None:
    for scheme in SCHEMES:
        model = nn.Sequential(make_linear(scheme.quantize(torch.randn(20, 32))))
        save_pretrained(model, tmp_path / "c")
        other = load_pretrained(tmp_path / "c", model=nn.Sequential(nn.Linear(32, 20, bias=False)))
        assert other[0].scheme.name == scheme.name
        assert other[0].metadata == model[0].metadata
        assert torch.equal(other[0].dequantize(), model[0].dequantize())


def test_an_override_does_not_reach_its_namesakes(tmp_path: Path) -> None:
    def build() -> nn.ModuleDict:
        torch.manual_seed(0)
        inner = nn.ModuleDict({"head": nn.Linear(32, 8), "other": nn.Linear(32, 8)})
        return nn.ModuleDict({"head": nn.Linear(32, 8), "inner": inner})

    model = build()
    scheme = BipolarInt(6, 4, group_size=32)
    replace_linear(model, W6, overrides={"inner.head": W6, "head": scheme})
    save_pretrained(model, tmp_path / "c")
    other = load_pretrained(tmp_path / "c", model=build())
    assert (other["head"].scheme, other["inner"]["head"].scheme) == (scheme, W6)
    x = torch.randn(2, 32)
    assert torch.equal(other["inner"]["head"](x), model["inner"]["head"](x))


def test_views_of_one_tensor(tmp_path: Path) -> None:
    def build() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(32, 8))
        both = torch.arange(6.0)
        model.register_buffer("all", both)
        model.register_buffer("some", both[2:4])
        return model

    model = build()
    replace_linear(model, W6)
    save_pretrained(model, tmp_path / "c")
    other = load_pretrained(tmp_path / "c", model=build())
    assert torch.equal(other.get_buffer("some"), torch.tensor([2.0, 3.0]))
    assert torch.equal(other.get_buffer("all"), torch.arange(6.0))


def test_hooks_and_mode_stay(tmp_path: Path) -> None:
    model = mlp()
    replace_linear(model, W6)
    save_pretrained(model, tmp_path / "c")
    seen = []
    other = mlp().eval()
    other[0].register_forward_hook(lambda module, args, output: seen.append(type(module).__name__))
    load_pretrained(tmp_path / "c", model=other)
    other(torch.randn(2, 32))
    assert seen == ["PlanesLinear"]
    assert not any(module.training for module in other.modules())


def test_a_model_on_the_meta_device_is_filled(tmp_path: Path) -> None:
    model = mlp().eval()
    replace_linear(model, W6)
    save_pretrained(model, tmp_path / "c")
    with torch.device("meta"):
        skeleton = nn.Sequential(nn.Linear(32, 48), nn.BatchNorm1d(48), nn.Linear(48, 20, bias=False)).eval()
    other = load_pretrained(tmp_path / "c", model=skeleton)
    assert other is skeleton
    x = torch.randn(3, 32)
    assert torch.equal(other(x), model(x))


def test_load_options(tmp_path: Path) -> None:
    model = models.llama()
    replace_linear(model, W6)
    save_pretrained(model, tmp_path / "c")
    other = load_pretrained(
        tmp_path / "c", device="cpu", dtype=torch.bfloat16, precision="high", backend="torch"
    )
    assert other.dtype == torch.bfloat16
    layer = other.model.layers[0].mlp.up_proj
    assert (layer.precision, layer.backend, layer.dtype) == ("high", "torch", torch.bfloat16)
    assert models.logits(other).dtype == torch.bfloat16
    with pytest.raises(BackendError, match="'cuda' cannot run"):
        load_pretrained(tmp_path / "c", backend="cuda")


def test_a_checkpoint_does_not_depend_on_the_backend(tmp_path: Path) -> None:
    for backend in ("cpu", "torch"):
        model = mlp()
        replace_linear(model, W6, backend=backend)
        save_pretrained(model, tmp_path / backend)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "cpu" / name).read_bytes() == (tmp_path / "torch" / name).read_bytes()


def test_saved_again_after_loading(tmp_path: Path) -> None:
    model = models.gemma3()
    replace_linear(model, W6, overrides={"lm_head": W6})
    save_pretrained(model, tmp_path / "a")
    save_pretrained(load_pretrained(tmp_path / "a"), tmp_path / "b")
    a, b = (tmp_path / name / "model.safetensors" for name in "ab")
    assert a.read_bytes() == b.read_bytes()
    sections = [json.loads((tmp_path / n / "config.json").read_text())["quantization_config"] for n in "ab"]
    assert sections[0] == sections[1]


# ---- files beside the weights ----


class Tokenizer:
    def save_pretrained(self, directory: Path) -> None:
        (directory / "tokenizer.json").write_text("{}")


def test_tokenizer_is_saved_or_copied(tmp_path: Path) -> None:
    model = models.llama()
    replace_linear(model, W6)
    save_pretrained(model, tmp_path / "a", tokenizer=Tokenizer())
    assert (tmp_path / "a" / "tokenizer.json").read_text() == "{}"
    assert (tmp_path / "a" / "generation_config.json").is_file()
    save_pretrained(load_pretrained(tmp_path / "a"), tmp_path / "b")
    assert (tmp_path / "b" / "tokenizer.json").read_text() == "{}"


def test_a_checkpoint_is_replaced_and_its_other_files_stay(tmp_path: Path) -> None:
    path = tmp_path / "c"
    first, second = mlp(), mlp()
    replace_linear(first, W6)
    replace_linear(second, OneBit())
    save_pretrained(first, path)
    (path / "README.md").write_text("mine")
    (path / "logs").mkdir()
    (path / "logs" / "a.txt").write_text("a")
    (path / "model-00001-of-00002.safetensors").write_text("stale")
    save_pretrained(second, path)
    assert sorted(entry.name for entry in path.iterdir()) == [
        "README.md",
        "config.json",
        "logs",
        "model.safetensors",
    ]
    assert (path / "logs" / "a.txt").read_text() == "a"
    assert load_pretrained(path, model=mlp())[0].scheme == OneBit()
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]


def test_all_files_have_the_usual_permissions(tmp_path: Path) -> None:
    model = mlp()
    replace_linear(model, W6)
    save_pretrained(model, tmp_path / "c")
    (tmp_path / "usual").touch()
    (tmp_path / "directory").mkdir()
    assert {file.stat().st_mode for file in (tmp_path / "c").iterdir()} == {
        (tmp_path / "usual").stat().st_mode
    }
    assert (tmp_path / "c").stat().st_mode == (tmp_path / "directory").stat().st_mode


def test_an_empty_directory_may_be_filled(tmp_path: Path) -> None:
    model = mlp()
    replace_linear(model, W6)
    save_pretrained(model, tmp_path)
    assert (tmp_path / "model.safetensors").is_file()


# ---- memory ----


class _Largest(TorchDispatchMode):
    """Largest floating-point tensor with memory that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and not tensor.is_meta:
                self.elements = max(self.elements, tensor.numel())
        return result


def test_loading_makes_no_dense_weight(tmp_path: Path) -> None:
    model = models.gemma3()
    report = replace_linear(model, W6, overrides={"lm_head": W6})
    save_pretrained(model, tmp_path / "c")
    smallest = min(layer.shape[0] * layer.shape[1] for layer in report.layers)
    watch = _Largest()
    with watch:
        load_pretrained(tmp_path / "c")
    assert 0 < watch.elements < smallest


_PEAK = """
import resource, sys, torch, lowbit, lowbit.checkpoint
with torch.device("meta"):
    model = torch.nn.Sequential(*(torch.nn.Linear(2048, 2048) for _ in range(10)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
lowbit.load_pretrained(sys.argv[1], model=model)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_peak_memory_of_loading_is_far_below_the_dense_model(tmp_path: Path) -> None:
    model = nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(10)))
    dense = sum(parameter.nbytes for parameter in model.parameters())
    replace_linear(model, GroupedSigns(128))
    save_pretrained(model, tmp_path / "c")
    run = subprocess.run(
        [sys.executable, "-c", _PEAK, str(tmp_path / "c")], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) < 0.25 * dense


# ---- explain and info ----


def test_explain() -> None:
    model = models.gemma3()
    replace_linear(model, BipolarInt(4, 8, group_size=32), overrides={"lm_head": W6})
    model.lm_head.active_bits = 3
    model.lm_head.precision = "exact"
    explanation = lowbit.explain(model)
    layers = {layer.name: layer for layer in explanation.layers}
    assert len(layers) == 16
    head = layers["lm_head"]
    assert (head.kernel, head.precision) == ("planes_linear, 3 of 6 planes", "exact")
    assert head.nbytes == model.lm_head.nbytes
    assert layers["model.layers.0.mlp.up_proj"].precision == "A8"
    embedding = layers["model.embed_tokens"]
    assert (embedding.kernel, embedding.nbytes) == ("rows of lm_head", 0)
    text = str(explanation)
    assert "cuda: runs on CUDA tensors, the layer is on cpu" in text
    assert "; triton: " in text
    assert "lm_head" in text
    assert json.loads(json.dumps(explanation.to_dict()))["layers"][0]["name"] == "model.embed_tokens"
    assert str(lowbit.explain(nn.Linear(2, 2))) == "no packed layers"
    vectors = make_linear(VectorCodebook().quantize(torch.randn(8, 32)))
    assert lowbit.explain(vectors).layers[0].precision == "fast (float)"


def test_explain_shows_what_is_forced_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp()
    replace_linear(model, W6, backend="torch")
    layer = lowbit.explain(model).layers[0]
    assert layer.backend == "torch"
    assert layer.reason.startswith("forced")


def test_info(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWBIT_BACKEND", "torch")
    info = lowbit.info()
    assert info.lowbit == lowbit.__version__
    assert info.packages["torch"] == torch.__version__
    assert list(info.backends) == ["cuda", "triton", "cpu", "torch"]
    assert info.backends["cuda"].ok == torch.cuda.is_available()
    assert info.backends["torch"].ok
    assert info.forced == "torch"
    data = json.loads(json.dumps(info.to_dict()))
    triton = info.backends["triton"]
    assert data["backends"]["triton"] == {"ok": triton.ok, "reason": triton.reason}
    text = str(info)
    for part in (lowbit.__version__, torch.__version__, "cuda", "triton", "LOWBIT_BACKEND"):
        assert part in text
    if info.backends["cpu"].ok:
        assert info.instruction_set in info.instruction_sets
        assert info.threads >= 1


# ---- refusals ----


def test_nothing_packed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no packed layers"):
        save_pretrained(mlp(), tmp_path / "c")
    assert not os.listdir(tmp_path)


def test_an_embedding_without_its_head(tmp_path: Path) -> None:
    head = make_linear(W6.quantize(torch.randn(8, 32)))
    lone = nn.Sequential(
        TiedEmbedding(head, dtype=torch.float32), make_linear(W6.quantize(torch.randn(8, 32)))
    )
    with pytest.raises(CheckpointError, match="layer '0': the layer this embedding is tied to"):
        save_pretrained(lone, tmp_path / "c")


def test_a_scheme_whose_group_size_the_weight_does_not_have(tmp_path: Path) -> None:
    """The weight decides; such a model is saved, loaded and saved again."""
    packed = BipolarInt(2, group_size=-1).quantize(torch.randn(8, 64))
    model = nn.Sequential(make_linear(packed, scheme=BipolarInt(2)))
    for _ in range(2):
        save_pretrained(model, tmp_path / "c")
        model = load_pretrained(tmp_path / "c", model=nn.Sequential(nn.Linear(64, 8, bias=False)))
    assert torch.equal(model[0].dequantize(), packed.dequantize())


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    packed = BipolarInt(2).quantize(torch.randn(8, 64))
    with pytest.raises(FormatError, match=r"'0': 'weight_bits' of its bipolar_int.*found 3; allowed 2"):
        save_pretrained(nn.Sequential(make_linear(packed, scheme=BipolarInt(3))), tmp_path / "c")
    norm = nn.LayerNorm(8)
    norm.weight.data[3] = float("nan")
    with pytest.raises(CheckpointError, match=r"NaN in '1\.weight'; found 1 of them"):
        save_pretrained(nn.Sequential(make_linear(packed), norm), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_buffer_may_hold_nan(tmp_path: Path) -> None:
    def build() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(64, 8))
        model.register_buffer("measured", torch.tensor([float("nan"), 1.0]))
        return model

    model = build()
    replace_linear(model, BipolarInt(2))
    save_pretrained(model, tmp_path / "c")
    assert load_pretrained(tmp_path / "c", model=build()).measured.isnan().tolist() == [True, False]
