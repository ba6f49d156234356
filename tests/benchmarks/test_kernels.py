"""The kernel benchmark on small work: its calls are right, rivals may be missing, and the report is whole."""

from __future__ import annotations

import sys

import kernels
import ours
import pytest
import reads
import rivals
import torch
from lowbit import _native
from lowbit.errors import BackendError
from PIL import Image
from rivals import Missing, Problem, unpacked
from runs import Run
from shapes import Shape
from timing import Candidate

from tests.native import needs_native

pytestmark = needs_native
SMALL = Shape(96, 256)
NAMED = {entry.name: entry for entry in ours.entries(1)} if _native.available_isas() else {}


@pytest.mark.parametrize("name", [name for name in NAMED if "active" not in name and "[" not in name])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 2e-2), (torch.float32, 1e-5)])
def test_unpacking_multiplies_the_same_weight(name, dtype, bound):
    packed = NAMED[name].make(96, 256)
    x = torch.randn(5, 256).to(dtype)
    assert rivals.relative_error(unpacked.unpack_and_multiply(packed, x), packed.linear(x.float())) < bound


def test_unpacking_is_timed_for_many_tokens_only():
    assert unpacked.candidates(small_problem(tokens=unpacked.MANY_TOKENS - 1)) == []
    found = unpacked.candidates(small_problem(tokens=unpacked.MANY_TOKENS))
    dtypes = (torch.bfloat16, torch.float32)
    assert [each.name for each in found] == [unpacked.name(e.name, d) for e in ours.FAMILIES for d in dtypes]
    for each in found:
        assert each.calls[0]().shape == (unpacked.MANY_TOKENS, 96)


@pytest.mark.parametrize("name", NAMED)
def test_what_is_timed_is_right(name):
    entry = NAMED[name]
    packed = entry.make(96, 256)
    error = ours.activation_error(entry, packed, ours.prepare(packed), torch.randn(3, 256))
    assert error < 3e-2


def test_a_wrong_kernel_is_not_timed(monkeypatch):
    monkeypatch.setattr(ours, "operator_call", lambda entry, packed, t, x, y: lambda: y.zero_())
    entry = NAMED[ours.ONE_BIT]
    packed = entry.make(96, 256)
    with pytest.raises(BackendError, match="wrong result"):
        ours.activation_error(entry, packed, {}, torch.randn(3, 256))


def test_planes_that_are_not_read_do_not_count():
    problem = small_problem()
    whole, half = (ours.candidate(problem, NAMED[f"{ours.W8}, {bits} active"]).candidate for bits in (8, 4))
    assert whole.bytes - half.bytes == SMALL.weights // 2


@pytest.mark.skipif("avx2" not in _native.available_isas(), reason="this machine has no AVX2")
def test_a_forced_instruction_set_ends_with_its_turn():
    before = _native.current_isa()
    candidate = ours.candidate(small_problem(), NAMED[f"{ours.ONE_BIT} [avx2]"]).candidate
    with candidate.setting():
        assert _native.current_isa() == "avx2"
    assert _native.current_isa() == before


@pytest.mark.parametrize("loop", reads.LOOPS, ids=str)
def test_read_loops_read_every_byte(loop):
    tensors = {"a": torch.randint(0, 256, (1000,), dtype=torch.uint8), "b": torch.randn(333).half()}
    candidates = dict(zip(reads.LOOPS, reads.candidates("x", [tensors]), strict=True))
    assert candidates[loop].bytes == 1000 + 666
    before = candidates[loop].calls[0]()
    for name, place in (("a", 0), ("a", 999), ("b", 0), ("b", 332)):
        changed = {key: tensor.clone() for key, tensor in tensors.items()}
        changed[name].view(torch.uint8)[place * changed[name].element_size()] ^= 1
        again = dict(zip(reads.LOOPS, reads.candidates("x", [changed]), strict=True))
        assert again[loop].calls[0]() != before


def test_read_refuses_what_it_cannot_read():
    array = torch.zeros(8, 8).numpy()
    with pytest.raises(ValueError, match="accumulators is 3"):
        _native.read([array], accumulators=3)
    with pytest.raises(ValueError, match="not contiguous"):
        _native.read([array.T[1:]])


def test_missing_rivals_are_named_with_the_reason():
    def absent(problem):
        raise Missing("no such   package")

    problem = small_problem()
    present = Candidate("there", [], 1)
    assert rivals.gather(problem, {"a": absent, "b": lambda problem: [present]}) == [present]
    assert problem.missing == {"a": "no such package"}


def test_a_rival_that_is_not_installed_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    problem = small_problem()
    names = ("llama.cpp", "bitsandbytes", "torchao")
    assert rivals.gather(problem, {name: rivals.all_rivals()[name] for name in names}) == []
    assert set(problem.missing) == set(names)


def test_llama_cpp_multiplies_what_it_was_given():
    pytest.importorskip("llama_cpp", reason="make rivals installs it")
    problem = small_problem(tokens=3)
    found = {each.name: each for each in rivals.gather(problem, {"": rivals.all_rivals()["llama.cpp"]})}
    assert found["llama.cpp F16"].activation_error < 1e-3
    assert 1e-3 < found["llama.cpp Q4_0 repacked"].activation_error < 2e-2
    assert found["llama.cpp Q1_0"].bits_per_weight == 1.125


def test_script(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reads, "BIG", 1 << 16)
    monkeypatch.setattr(Problem, "copies", lambda self, nbytes: 2)
    monkeypatch.setattr(
        rivals, "all_rivals", lambda: {"torch": every["torch"], "gone": lambda problem: missing()}
    )
    arguments = ["--shapes", "128x256", "--tokens", "1,4", "--rounds", "3", "--check-targets"]
    monkeypatch.setattr(sys, "argv", ["kernels.py", *arguments, "--output", str(tmp_path)])
    assert kernels.main() in (0, 1)
    one = Run.load(tmp_path / "kernels" / "128x256_m1.json")
    assert one.missing == {"gone": "not here"}
    assert one.environment["versions"]["lowbit"]
    assert all(len(line.cold) == len(line.warm) == 3 for line in one.lines.values())
    best = one.best_read(ours.W4)
    assert best.us() == min(one.lines[f"{ours.W4}: {loop}"].us() for loop in reads.LOOPS)
    text = (tmp_path / "kernels.md").read_text()
    assert "Not run: gone: not here." in text
    assert "128x256 (out x in), M = 4" in text
    page = (tmp_path / "kernels.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    # Not "http" alone: the base64 of a picture may spell it.
    assert "://" not in page
    for picture in ("kernels", "kernels_roofline", "kernels_batch"):
        Image.open(tmp_path / f"{picture}.png").verify()
    assert "wanted" in capsys.readouterr().out


every = rivals.all_rivals()


def missing():
    raise Missing("not here")


def small_problem(tokens=1):
    problem = Problem(SMALL, tokens)
    problem.copies = lambda nbytes: 2
    return problem
