"""Broken checkpoints and failing writes: a typed error that names the culprit, and nothing changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lowbit import BipolarInt, ScalarCodebook, load_pretrained, replace_linear, save_pretrained
from lowbit.checkpoint import atomic, save
from lowbit.errors import CheckpointError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Change = Callable[[Path], None]


def build() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(44, 24), nn.LayerNorm(24), nn.Linear(24, 8), nn.Embedding(5, 8))


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "c"
    model = build()
    overrides = {"2": ScalarCodebook(bits=2, outlier_fraction=0.05), "3": BipolarInt(8, group_size=32)}
    replace_linear(model, BipolarInt(4, group_size=32, asymmetric=True), overrides=overrides)
    save_pretrained(model, path)
    return path


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "c"))


def snapshot(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def tensors(change: Callable[[dict[str, Tensor]], object]) -> Change:
    """Rewrites the weights file."""

    def apply(path: Path) -> None:
        held = {name: tensor.clone() for name, tensor in load_file(path / "model.safetensors").items()}
        change(held)
        save_file(held, path / "model.safetensors")

    return apply


def section(change: Callable[[dict], object]) -> Change:
    """Rewrites quantization_config."""

    def apply(path: Path) -> None:
        config = json.loads((path / "config.json").read_text())
        change(config["quantization_config"])
        (path / "config.json").write_text(json.dumps(config))

    return apply


def cut(name: str, size: int) -> Change:
    def apply(path: Path) -> None:
        data = (path / name).read_bytes()
        (path / name).write_bytes(data[:size] if size > 0 else data[: len(data) + size])

    return apply


def write(name: str, data: bytes) -> Change:
    return lambda path: (path / name).write_bytes(data) and None


def poison(name: str, index: tuple[int, ...], value: float) -> Change:
    def change(held: dict[str, Tensor]) -> None:
        held[name][index] = value

    return tensors(change)


BROKEN: dict[str, tuple[Change, str]] = {
    "no directory": (lambda path: shutil.rmtree(path), "no such directory"),
    "no config": (lambda path: (path / "config.json").unlink(), r"cannot read '.*config\.json'"),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), r"model\.safetensors' is missing"),
    "config cut short": (cut("config.json", 100), r"cannot read '.*config\.json'"),
    "config of another kind": (write("config.json", b"[1]"), "is no configuration; found list"),
    "weights cut short": (cut("model.safetensors", -5), r"model\.safetensors' is truncated or corrupt"),
    "weights cut in the header": (cut("model.safetensors", 40), "truncated or corrupt"),
    "weights of another kind": (write("model.safetensors", b"PK\x03\x04 a pickle"), "truncated or corrupt"),
    "no section": (
        lambda path: (path / "config.json").write_text('{"model_type": "llama"}') and None,
        "not of a lowbit checkpoint; found no quantization_config",
    ),
    "another method": (section(lambda c: c.update(quant_method="gptq")), "wrong quant_method; found 'gptq'"),
    "another version": (section(lambda c: c.update(format_version=2)), "unknown format_version; found 2"),
    "unknown field": (section(lambda c: c.update(nonsense=1)), "found 'nonsense'"),
    "unknown format": (section(lambda c: c.update(format="ternary")), "found 'ternary'"),
    "no layers": (section(lambda c: c.update(layers={})), "lists no packed layers"),
    "unknown layer": (
        section(lambda c: c["layers"].update({"9": c["layers"]["0"]})),
        "layer '9': .*no layer of the model has this name|no layer of the model has this name",
    ),
    "wrong size": (section(lambda c: c["layers"]["0"].update(in_features=43)), "layer '0'.*another size"),
    "unknown kind": (section(lambda c: c["layers"]["0"].update(kind="x")), "layer '0': unknown kind.*'x'"),
    "too many bits": (section(lambda c: c["layers"]["0"].update(bits=9)), "layer '0'.*'bits'; found 9"),
    "odd group size": (
        section(lambda c: c["layers"]["0"].update(group_size=40)),
        "layer '0'.*group_size; found 40",
    ),
    "field of a wrong type": (
        section(lambda c: c["layers"]["0"].update(bits="4")),
        "layer '0'.*'bits'; found '4'",
    ),
    "scheme of another width": (
        section(lambda c: c.update(weight_bits=3)),
        r"config\.json': layer '0': 'weight_bits' of its bipolar_int contradicts its metadata; "
        "found 3; allowed 4",
    ),
    "override of another format": (
        section(lambda c: c["overrides"].update({"2": {"format": "one_bit"}})),
        "layer '2': another format than its metadata; found one_bit; allowed scalar_codebook",
    ),
    "tied to nothing": (
        section(lambda c: c.update(tied={"3": "7"})),
        "layer '3': .*tied|tied to a layer not listed",
    ),
    "bad dtype": (
        lambda path: (
            (path / "config.json").write_text(
                (path / "config.json").read_text().replace('"dtype": "float32"', '"dtype": "int7"')
            )
            and None
        ),
        "bad dtype; found 'int7'",
    ),
    "packed tensor missing": (tensors(lambda t: t.pop("0.scales")), r"tensor '0\.scales': missing"),
    "dense tensor missing": (tensors(lambda t: t.pop("1.bias")), r"tensor '1\.bias': missing"),
    "bias missing": (tensors(lambda t: t.pop("0.bias")), r"tensor '0\.bias': missing"),
    "unexpected tensor": (tensors(lambda t: t.update(more=torch.zeros(1))), "tensor 'more': unexpected"),
    "packed shape": (
        tensors(lambda t: t.update({"0.weight": t["0.weight"][:, :-1].clone()})),
        r"tensor '0\.weight': wrong shape; found \[4, 23, 6\]; allowed \[4, 24, 6\]",
    ),
    "dense shape": (
        tensors(lambda t: t.update({"1.bias": torch.zeros(3)})),
        r"tensor '1\.bias': wrong shape",
    ),
    "packed dtype": (
        tensors(lambda t: t.update({"0.scales": t["0.scales"].float()})),
        r"tensor '0\.scales': wrong dtype; found torch.float32; allowed torch.float16",
    ),
    "dense dtype": (
        tensors(lambda t: t.update({"1.weight": t["1.weight"].to(torch.int32)})),
        r"tensor '1\.weight': wrong dtype; found torch.int32; allowed a floating dtype",
    ),
    "unreadable dtype": (
        tensors(lambda t: t.update({"1.weight": t["1.weight"].to(torch.float8_e4m3fn)})),
        r"tensor '1\.weight': unsupported dtype; found F8_E4M3",
    ),
    "NaN in a dense tensor": (
        poison("1.weight", (3,), float("nan")),
        r"tensor '1\.weight': NaN; found 1 of them; allowed none",
    ),
    "NaN bias": (poison("0.bias", (0,), float("nan")), r"tensor '0\.bias': NaN; found 1 of them"),
    "NaN scale": (poison("0.scales", (3, 0), float("nan")), "layer '0': non-finite values in 'scales'"),
    "pad bits set": (poison("0.weight", (0, 0, 5), 255), "layer '0'.*pad"),
    "outlier offsets": (poison("2.outlier_offsets", (0,), 1), "layer '2': bad 'outlier_offsets'"),
    "outlier columns": (poison("2.outlier_columns", (0,), 24), "layer '2': 'outlier_columns' out of range"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_checkpoint(case: str, checkpoint: Path) -> None:
    change, message = BROKEN[case]
    change(checkpoint)
    files = snapshot(checkpoint) if checkpoint.exists() else {}
    model = build()
    children = list(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(checkpoint, model=model)
    assert list(model) == children
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    assert (snapshot(checkpoint) if checkpoint.exists() else {}) == files


def test_the_unbroken_checkpoint_loads(checkpoint: Path) -> None:
    load_pretrained(checkpoint, model=build())


def test_an_unknown_architecture(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot build the model.*passed as model="):
        load_pretrained(checkpoint)


def test_a_model_with_holes(checkpoint: Path) -> None:
    model = build()
    model[1].register_buffer("mask", torch.empty(3, device="meta"), persistent=False)
    with pytest.raises(CheckpointError, match="layer '1': the model's buffer 'mask' has no value"):
        load_pretrained(checkpoint, model=model)
    assert type(model[0]) is nn.Linear


# ---- failing writes ----


def packed() -> nn.Module:
    model = build()
    replace_linear(model, BipolarInt(2, group_size=32))
    return model


def no_space(*args: object, **kwargs: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("module", "name"),
    [(save, "save_file"), (save, "_save_config"), (atomic.os, "rename"), (atomic.os, "fsync")],
)
@pytest.mark.parametrize("exists", [True, False])
def test_a_failed_write_leaves_everything_as_it_was(
    module, name: str, exists: bool, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exists:
        shutil.rmtree(checkpoint)
    before = snapshot(checkpoint.parent)
    monkeypatch.setattr(module, name, no_space)
    with pytest.raises(CheckpointError, match=r"cannot write '.*': .*No space left"):
        save_pretrained(packed(), checkpoint)
    assert snapshot(checkpoint.parent) == before
    assert [entry.name for entry in checkpoint.parent.iterdir()] == (["c"] if exists else [])


def test_when_the_last_rename_fails_the_old_checkpoint_comes_back(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(checkpoint)
    rename = atomic.os.rename
    calls = []

    def second_fails(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(atomic.os, "rename", second_fails)
    with pytest.raises(CheckpointError, match="Input/output error"):
        save_pretrained(packed(), checkpoint)
    assert len(calls) == 3
    assert snapshot(checkpoint) == before


def test_interrupted_between_the_two_renames(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(checkpoint)
    rename = atomic.os.rename

    def interrupted(source: Path, target: Path) -> None:
        rename(source, target)
        if Path(source) == checkpoint:
            raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(packed(), checkpoint)
    assert snapshot(checkpoint) == before
    assert [entry.name for entry in checkpoint.parent.iterdir()] == ["c"]


def test_an_old_checkpoint_that_cannot_be_put_back_is_kept(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(checkpoint)
    rename = atomic.os.rename

    def only_away(source: Path, target: Path) -> None:
        if Path(source) != checkpoint:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(atomic.os, "rename", only_away)
    with pytest.raises(CheckpointError, match="Input/output error"):
        save_pretrained(packed(), checkpoint)
    (kept,) = checkpoint.parent.glob("*/old")
    assert snapshot(kept) == before


def test_links_stay_links(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.txt").write_text("a")
    (checkpoint / "logs").symlink_to(tmp_path / "elsewhere")
    (checkpoint / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "link").symlink_to(checkpoint)
    save_pretrained(packed(), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (checkpoint / "logs").is_symlink()
    assert (checkpoint / "gone").is_symlink()
    assert load_pretrained(checkpoint, model=build())[0].scheme == BipolarInt(2, group_size=32)


def test_what_has_no_data_cannot_be_saved(tmp_path: Path) -> None:
    for name in ("0", "1"):
        model = packed()
        model.get_submodule(name).to("meta")
        with pytest.raises(CheckpointError, match=rf"layer '{name}.*meta device"):
            save_pretrained(model, tmp_path / "c")
    assert not list(tmp_path.iterdir())


def test_other_directories_and_files_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match=r"holds something else.*found thesis\.tex"):
        save_pretrained(packed(), tmp_path / "home")
    with pytest.raises(CheckpointError, match="is not a directory"):
        save_pretrained(packed(), tmp_path / "file")
    assert snapshot(tmp_path) == {"home/thesis.tex": b"years of work", "file": b"x"}


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot write"):
        save_pretrained(packed(), tmp_path / "file" / "c")
