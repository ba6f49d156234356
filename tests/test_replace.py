"""replace_linear: which layers change, what they share, what is refused; a failure changes nothing."""

from __future__ import annotations

import json
import math

import pytest
import torch
from lowbit import BinaryMoS, BipolarInt, GroupedSigns, OneBit, replace_linear
from lowbit.errors import (
    BackendError,
    DtypeError,
    FormatError,
    LowbitError,
    UnsupportedLayerError,
    ValueRangeError,
)
from lowbit.modules import PackedEmbedding, PackedModule, PlanesLinear, QuantizedLinear, TiedEmbedding
from torch import Tensor, nn

from tests import tiny_models as models

W6 = BipolarInt(6, group_size=32)


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Sequential(nn.Linear(48, 16, bias=False)))


def unchanged(model: nn.Module, state: dict[str, Tensor]) -> bool:
    now = model.state_dict()
    same = now.keys() == state.keys() and all(torch.equal(now[name], state[name]) for name in state)
    return same and not any(isinstance(module, PackedModule) for module in model.modules())


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.detach().float() - b.detach().float()).norm() / b.detach().float().norm())


# ---- what becomes of a model ----


def test_any_module() -> None:
    model = mlp()
    x = torch.randn(5, 32)
    expected = model(x)
    model.train()
    model[2].eval()
    bias = model[0].bias
    report = replace_linear(model, W6)
    assert [layer.name for layer in report.layers] == ["0", "2.0"]
    assert isinstance(model[0], PlanesLinear)
    assert isinstance(model[1], nn.ReLU)
    assert model[0].bias is bias
    assert model[2][0].bias is None
    assert model[0].training
    assert not model[2][0].training
    assert model[0].layer_name == "0"
    assert relative(model(x), expected) < 0.05


def test_a_llama_without_its_head() -> None:
    model = models.llama()
    expected = models.logits(model)
    report = replace_linear(model, W6)
    assert len(report.layers) == 14
    assert dict(report.skipped) == {"lm_head": "skip pattern 'lm_head'"}
    assert type(model.lm_head) is nn.Linear
    assert type(model.model.embed_tokens) is nn.Embedding
    assert relative(models.logits(model), expected) < 0.1
    out = model.generate(models.token_ids(1, 4), max_new_tokens=3, do_sample=False)
    assert out.shape == (1, 7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [models.gemma3, lambda dtype: models.llama(tied=True, dtype=dtype)])
def test_a_tied_head_is_packed_once(make, dtype: torch.dtype) -> None:
    model = make(dtype)
    expected = models.logits(model)
    report = replace_linear(model, W6, overrides={"lm_head": BipolarInt(8, group_size=32)})
    assert isinstance(model.model.embed_tokens, TiedEmbedding)
    assert model.model.embed_tokens.head is model.lm_head
    assert model.lm_head.metadata["bits"] == 8
    head = report.layers[-1]
    assert head.name == "lm_head"
    assert head.shared_with == ("model.embed_tokens",)
    assert not report.skipped
    names = [name for name in model.state_dict() if "embed_tokens" in name or "lm_head" in name]
    assert sorted(names) == ["lm_head.scales", "lm_head.weight"]
    actual = models.logits(model)
    assert actual.dtype == dtype
    assert relative(actual, expected) < 0.15


def test_the_embedding_alone_brings_its_tied_head() -> None:
    model = models.llama(tied=True)
    report = replace_linear(model, W6, overrides={"embed_tokens": W6})
    assert isinstance(model.lm_head, PlanesLinear)
    assert isinstance(model.model.embed_tokens, TiedEmbedding)
    assert not report.skipped


def test_an_untied_embedding_by_name() -> None:
    model = models.llama()
    rows = model.model.embed_tokens(models.token_ids())
    report = replace_linear(model, W6, overrides={"model.embed_tokens": BipolarInt(8, group_size=32)})
    assert isinstance(model.model.embed_tokens, PackedEmbedding)
    assert type(model.lm_head) is nn.Linear
    assert relative(model.model.embed_tokens(models.token_ids()), rows) < 0.02
    assert report.layers[0].module == "Embedding"


def test_wildcards_do_not_reach_embeddings() -> None:
    model = models.gpt2()
    replace_linear(model, W6, overrides={"transformer.*": BipolarInt(8, group_size=32)})
    assert type(model.transformer.wpe) is nn.Embedding


def test_conv1d() -> None:
    model = models.gpt2()
    expected = models.logits(model)
    report = replace_linear(model, W6)
    assert {layer.module for layer in report.layers} == {"Conv1D"}
    attention = model.transformer.h[0].attn.c_attn
    assert (attention.in_features, attention.out_features) == (64, 192)
    assert attention.bias is not None
    assert relative(models.logits(model), expected) < 0.1


def test_tie_weights_leaves_packed_layers_alone() -> None:
    model = models.gemma3()
    replace_linear(model, W6, overrides={"lm_head": W6})
    expected = models.logits(model)
    model.tie_weights()
    assert torch.equal(models.logits(model), expected)
    half = models.llama(tied=True)
    replace_linear(half, W6, skip=("embed_tokens",))
    assert isinstance(half.lm_head, PlanesLinear)
    half.tie_weights()
    assert half.lm_head.get_buffer("weight").dtype == torch.uint8


def test_one_module_in_two_places() -> None:
    shared = nn.Linear(32, 32)
    model = nn.ModuleDict({"a": shared, "b": nn.ModuleList([shared]), "c": nn.Linear(32, 32)})
    report = replace_linear(model, W6)
    assert model["a"] is model["b"][0]
    assert [layer.name for layer in report.layers] == ["a", "c"]
    assert report.layers[0].shared_with == ("b.0",)


def test_two_layers_with_one_parameter() -> None:
    a, b, c = nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False), nn.Linear(32, 32)
    b.weight = c.weight = a.weight
    model = nn.ModuleList([a, b, c])
    x = torch.randn(2, 32)
    bias = c.bias
    report = replace_linear(model, W6)
    assert len(report.layers) == 1
    assert model[1] is model[0]
    assert model[2].get_buffer("weight") is model[0].get_buffer("weight")
    assert model[2].bias is bias
    torch.testing.assert_close(model[2](x), model[0](x) + bias)


def test_hooks_stay() -> None:
    model = mlp()
    seen = []
    model[0].register_forward_hook(lambda module, args, output: seen.append(type(module).__name__))
    replace_linear(model, W6)
    model(torch.randn(1, 32))
    assert seen == ["PlanesLinear"]


def test_transformer_encoder_layer_runs_in_evaluation() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 1).eval()
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        expected = model(x)
        report = replace_linear(model, W6)
        assert relative(model(x), expected) < 0.05
    assert [layer.name for layer in report.layers] == ["layers.0.linear1", "layers.0.linear2"]
    assert report.skipped["layers.0.self_attn.out_proj"] == "nn.MultiheadAttention reads its weight directly"


def test_a_second_call_takes_what_the_first_left() -> None:
    model = models.llama()
    replace_linear(model, OneBit())
    report = replace_linear(model, W6, skip=())
    assert [layer.name for layer in report.layers] == ["lm_head"]
    packed = len([module for module in model.modules() if isinstance(module, PackedModule)])
    with pytest.raises(ValueRangeError, match=rf"no layer to convert.*{packed} layers that are packed"):
        replace_linear(model, W6)
    with pytest.raises(ValueRangeError, match=r"without effect.*of layers that are packed already"):
        replace_linear(model, W6, skip=(), overrides={"*q_proj": W6})
    with pytest.raises(UnsupportedLayerError, match="layer 'lm_head': cannot be packed: it is already"):
        replace_linear(model, W6, skip=(), overrides={"lm_head": W6})


# ---- patterns ----


def test_skip_by_name_and_by_pattern() -> None:
    model = models.llama()
    report = replace_linear(
        model, OneBit(), skip=("lm_head", "*.mlp.*", "model.layers.1.self_attn.[qk]_proj")
    )
    assert sorted({layer.name.split(".", 2)[2] for layer in report.layers}) == [
        "0.self_attn.k_proj",
        "0.self_attn.o_proj",
        "0.self_attn.q_proj",
        "0.self_attn.v_proj",
        "1.self_attn.o_proj",
        "1.self_attn.v_proj",
    ]
    assert report.skipped["model.layers.0.mlp.up_proj"] == "skip pattern '*.mlp.*'"
    assert list(replace_linear(mlp(), OneBit(), skip="2.?").skipped) == ["2.0"]


def test_the_first_override_that_matches_counts_and_unskips() -> None:
    model = models.llama()
    replace_linear(
        model,
        OneBit(),
        skip=("lm_head", "o_proj"),
        overrides={"*.layers.0.self_attn.*": GroupedSigns(32), "o_proj": W6, "lm_head": BinaryMoS(2)},
    )
    layers = model.model.layers
    assert layers[0].self_attn.o_proj.scheme == GroupedSigns(32)
    assert layers[1].self_attn.o_proj.scheme == W6
    assert layers[1].self_attn.q_proj.scheme == OneBit()
    assert model.lm_head.scheme == BinaryMoS(2)


def test_options_reach_every_layer() -> None:
    model = mlp()
    replace_linear(model, W6, precision="exact", backend="torch")
    assert {(layer.precision, layer.backend) for layer in (model[0], model[2][0])} == {("exact", "torch")}


# ---- report ----


def test_report() -> None:
    model = mlp()
    weights = [model[0].weight.detach(), model[2][0].weight.detach()]
    steps = []
    report = replace_linear(model, W6, progress=lambda *step: steps.append(step))
    assert steps == [(1, 2, "0"), (2, 2, "2.0")]
    first = report.layers[0]
    assert (first.shape, first.scheme, first.module) == ((48, 32), "bipolar_int", "Linear")
    assert first.bits_per_weight == 6.5
    assert first.nbytes == 48 * 32 * 6.5 / 8
    assert first.dense_nbytes == 48 * 32 * 4
    for layer, module, weight in zip(report.layers, (model[0], model[2][0]), weights, strict=True):
        assert math.isclose(layer.relative_error, relative(module.dequantize(), weight), rel_tol=1e-5)
    assert report.weights == 48 * 32 + 48 * 16
    assert report.nbytes == sum(layer.nbytes for layer in report.layers)
    assert min(layer.relative_error for layer in report.layers) <= report.relative_error
    assert report.relative_error <= max(layer.relative_error for layer in report.layers)
    table = str(report).splitlines()
    assert table[0].split() == ["layer", "shape", "scheme", "bits/weight", "rel.", "error", "backend"]
    assert f"{report.bits_per_weight:.3f} bits per weight" in table[-1]
    parsed = json.loads(report.to_json())
    assert parsed == json.loads(json.dumps(report.to_dict()))
    assert parsed["total"]["layers"] == 2


def test_error_of_a_zero_weight() -> None:
    model = nn.Sequential(nn.Linear(32, 4))
    nn.init.zeros_(model[0].weight)
    assert replace_linear(model, W6).layers[0].relative_error == 0.0


# ---- refusals; the model is as it was ----


class OwnForward(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Offset(nn.Embedding):
    embed_scale = 3.0

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) * self.embed_scale + 1


class Plain(nn.Linear):
    pass


def test_subclasses() -> None:
    model = nn.ModuleDict({"plain": Plain(32, 4), "own": OwnForward(32, 4), "embed": Offset(10, 32)})
    report = replace_linear(model, W6)
    assert isinstance(model["plain"], QuantizedLinear)
    assert dict(report.skipped) == {
        "own": "OwnForward has a forward of its own",
        "embed": "Offset does more than multiply rows by embed_scale",
    }


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [
        ("own", OwnForward(32, 4), "OwnForward has a forward of its own"),
        ("embed", Offset(10, 32), "Offset does more than multiply rows"),
        ("norm", nn.LayerNorm(32), "not a linear layer or an embedding"),
        ("bounded", nn.Embedding(10, 32, max_norm=1.0), "max_norm"),
        ("lazy", nn.LazyLinear(4), "no shape yet"),
        ("tuned", torch.nn.utils.parametrizations.weight_norm(nn.Linear(32, 4)), "computed from other"),
    ],
)
def test_an_override_that_names_what_cannot_be_packed(name: str, layer: nn.Module, reason: str) -> None:
    model = nn.ModuleDict({name: layer, "fine": nn.Linear(32, 4)})
    with pytest.raises(UnsupportedLayerError, match=f"layer '{name}': cannot be packed: .*{reason}"):
        replace_linear(model, W6, overrides={name: W6})
    assert model[name] is layer
    assert type(model["fine"]) is nn.Linear


def test_fused_experts_are_refused_by_name_unless_skipped() -> None:
    model = models.mixtral()
    state = copy_of(model)
    with pytest.raises(
        UnsupportedLayerError, match=r"layer 'model.layers.0.mlp.experts.\w+': fused expert weights"
    ):
        replace_linear(model, W6)
    assert unchanged(model, state)
    expected = models.logits(model)
    report = replace_linear(model, BipolarInt(8, group_size=32), skip=("lm_head", "experts"))
    assert [name for name in report.skipped if "experts" in name]
    assert relative(models.logits(model), expected) < 0.1


def test_a_layer_cannot_be_replaced_inside_itself() -> None:
    for layer in (nn.Linear(32, 4), nn.Embedding(4, 32)):
        with pytest.raises(UnsupportedLayerError, match="wrap it"):
            replace_linear(layer, W6)
    with pytest.raises(UnsupportedLayerError, match="not a model; found Tensor"):
        replace_linear(torch.zeros(2, 2), W6)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"overrides": {"nothing": W6}}, ValueRangeError, "override without effect.*'nothing'"),
        ({"overrides": {"0": W6, "0*": OneBit()}}, ValueRangeError, "override without effect.*'0\\*'"),
        ({"overrides": {"0": "w4"}}, ValueRangeError, "not a scheme; found 'w4'"),
        ({"skip": ("*",)}, ValueRangeError, "no layer to convert"),
        ({"skip": ("2.0", "hea")}, ValueRangeError, "skip pattern without effect.*found 'hea'"),
        ({"skip": ("2",)}, ValueRangeError, "skip pattern without effect.*found '2'"),  # holds the layer
        ({"precision": "best"}, ValueRangeError, "unknown precision; found 'best'"),
        ({"backend": "gpu"}, BackendError, "backend names no backend; found 'gpu'"),
        ({"backend": "cuda"}, BackendError, "layer '0': backend 'cuda' cannot run"),
        ({"calibration": [torch.zeros(1)]}, ValueRangeError, "bipolar_int takes no calibration data"),
    ],
)
def test_bad_arguments(options: dict, error: type[LowbitError], message: str) -> None:
    model = mlp()
    state = copy_of(model)
    with pytest.raises(error, match=message):
        replace_linear(model, W6, **options)
    assert unchanged(model, state)


def test_forced_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWBIT_BACKEND", "cuda")
    with pytest.raises(BackendError, match="layer '0': backend 'cuda' cannot run"):
        replace_linear(mlp(), W6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_weight_in_the_last_layer_changes_nothing(bad: float) -> None:
    model = mlp()
    with torch.no_grad():
        model[2][0].weight[3, 5] = bad
    with pytest.raises(ValueRangeError, match=r"layer '2\.0'"):
        replace_linear(model, W6)
    assert type(model[0]) is nn.Linear
    assert type(model[2][0]) is nn.Linear


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m: m[2].double(), DtypeError, r"layer '2\.0': unsupported dtype.*float64"),
        (lambda m: m[2].to(torch.float8_e4m3fn), DtypeError, r"layer '2\.0': unsupported dtype.*float8"),
        (lambda m: m[2].to("meta"), FormatError, r"layer '2\.0': the weight has no data"),
    ],
)
def test_weights_that_cannot_be_read(change, error: type[LowbitError], message: str) -> None:
    model = mlp()
    change(model)
    with pytest.raises(error, match=message):
        replace_linear(model, W6)
    assert type(model[0]) is nn.Linear


def test_tied_layers_with_different_schemes() -> None:
    model = models.llama(tied=True)
    state = copy_of(model)
    with pytest.raises(ValueRangeError, match=r"shares its weight with 'model.embed_tokens'"):
        replace_linear(model, W6, overrides={"lm_head": OneBit(), "model.embed_tokens": W6})
    assert unchanged(model, state)


def test_a_tied_embedding_may_be_skipped_in_a_second_call() -> None:
    model = models.llama(tied=True)
    replace_linear(model, W6, skip=("lm_head",), overrides={"lm_head": W6})
    with pytest.raises(ValueRangeError, match="no layer to convert"):
        replace_linear(model, W6, skip=("*embed*",))
