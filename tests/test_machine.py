"""Precision, batch size and compilation: what is asked for is done, put back afterwards, and moves no result too far."""

import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_vit
from timm.layers import PatchEmbed

from mae_helpers.encoder.passes import PerImage, one_pass
from mae_helpers.encoder.vit import compile_blocks
from mae_helpers.encoder.walk import classify, mean_patch, walk
from mae_helpers.measures.attention import Rollout
from mae_helpers.measures.features import head_features
from mae_helpers.measures.subspaces import Moments
from mae_helpers.perturbations.levels import Clean
from mae_helpers.profile import machine
from mae_helpers.profile.machine import Compute, computing_of, doubled, number_format, pick_device
from mae_helpers.profile.settings import Computing
from mae_helpers.run import chapter, notebooks

BF16_TOLERANCE = 0.03  # of the largest magnitude: what book/imagenet.md states


def statistics(model):
    return {
        "mean_patch": PerImage(mean_patch),
        "heads": PerImage(head_features),
        "class": PerImage(partial(classify, model), only=4),
        "rollout": Rollout("cls", 4),
    }


class OutOfMemory:
    """A statistic that has no room for more than `room` images at a time, and counts how often it was told that."""

    def __init__(self, room, layer=1):
        self.room, self.layer, self.refused = room, layer, []

    def add(self, state, rows):
        if len(rows) > self.room and state.layer == self.layer:
            self.refused.append(len(rows))
            raise torch.OutOfMemoryError("made up")
        if state.layer == 1:
            self.told += list(rows)

    def result(self):
        return np.array(self.told)

    def begin(self, images, layers):
        self.told = []


@pytest.mark.parametrize("layer", [1, 3], ids=["first layer", "middle of the pass"])
def test_out_of_memory_halves_the_batch_and_begins_again(tiny_vit, tiny_images, layer):
    compute, greedy = Compute(batch_size=12), OutOfMemory(3, layer)
    found = one_pass(tiny_vit, tiny_images, {"greedy": greedy, **statistics(tiny_vit)}, compute=compute)
    assert greedy.refused == [12, 6]
    assert compute.batch_size == 3
    assert found["greedy"].tolist() == list(range(12)), "each image once, in order"
    plain = one_pass(tiny_vit, tiny_images, statistics(tiny_vit))
    for name, expected in plain.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-6)
    one_pass(tiny_vit, tiny_images, {"greedy": greedy}, compute=compute)
    assert greedy.refused == [12, 6], "what fitted is kept for the next pass"


def test_other_errors_do_not_shrink_the_batch(tiny_vit, tiny_images):
    def fail(*_):
        raise RuntimeError("mat1 and mat2")

    compute, broken = Compute(batch_size=8), make_vit(0)
    broken.blocks[0].norm1.register_forward_pre_hook(fail)
    for vit, statistics in [(tiny_vit, {"failing": PerImage(fail)}), (broken, {"mean": PerImage(mean_patch)})]:
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            one_pass(vit, tiny_images, statistics, compute=compute)
    assert compute.batch_size == 8


def test_threads_that_read_ahead_change_nothing(tiny_vit, tiny_images):
    one, many = (
        one_pass(tiny_vit, tiny_images, statistics(tiny_vit), compute=Compute(batch_size=5, workers=n)) for n in (1, 4)
    )
    for name in one:
        assert np.array_equal(one[name], many[name]), name


def test_bf16_agrees_with_float32_within_the_stated_tolerance(tiny_vit, tiny_images):
    exact, rounded = (
        one_pass(tiny_vit, tiny_images, statistics(tiny_vit), compute=Compute(precision=name))
        for name in ("float32", "bf16")
    )
    for name in ("mean_patch", "heads", "rollout"):
        assert rounded[name].dtype == np.float32
        error = np.abs(rounded[name] - exact[name]).max() / np.abs(exact[name]).max()
        assert 0 < error < BF16_TOLERANCE, name


@torch.no_grad()
def test_attention_and_tokens_are_float32_in_every_precision(tiny_vit, tiny_images):
    images = tiny_images.tensor([0, 1])
    for precision in ("float32", "tf32", "bf16"):
        for state in walk(tiny_vit, images, precision=precision):
            rows = state.attention().sum(-1)
            assert state.attention().dtype == torch.float32
            assert state.tokens.dtype == torch.float32
            assert state.head_outputs().dtype == torch.float32
            torch.testing.assert_close(rows, torch.ones_like(rows), atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_pytorchs_switches_are_put_back(precision):
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with number_format(precision, torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == ("high" if precision == "tf32" else "highest")
        assert torch.backends.cudnn.allow_tf32 == (precision == "tf32")
        assert torch.is_autocast_enabled("cpu") == (precision == "bf16")
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
    assert not torch.is_autocast_enabled("cpu")


def test_a_statistic_does_not_run_in_the_blocks_precision(tiny_vit, tiny_images):
    def switched_on(state):
        return torch.full((len(state.tokens), 1), torch.is_autocast_enabled("cpu"))

    statistics = {"probe": PerImage(switched_on), "moments": Moments({"all": range(12)})}
    found = one_pass(tiny_vit, tiny_images, statistics, compute=Compute(precision="bf16"))
    assert not found["probe"].any()
    assert found["moments"]["all", 1][0].dtype == np.float64


def test_compiled_blocks_give_the_same_results(tiny_images):
    plain = one_pass(make_vit(3), tiny_images, {"mean": PerImage(mean_patch)})["mean"]
    calls = []

    def counting(graph, _):
        calls.append(graph)
        return graph.forward

    compiled = compile_blocks(make_vit(3), backend=counting)
    found = one_pass(compiled, tiny_images, {"mean": PerImage(mean_patch)})["mean"]
    assert calls, "nothing was compiled"
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-6)


def test_a_notebooks_precision_goes_before_the_profiles_and_a_wrong_one_is_named():
    assert computing_of(Computing(precision="tf32")).precision == "tf32"
    assert computing_of(Computing(precision="tf32"), "bf16").precision == "bf16"
    assert computing_of(Computing(workers=3)).workers == 3
    for wrong in ("fp8", ""):
        with pytest.raises(ValueError, match=f"precision '{wrong}': use one of float32, tf32, bf16"):
            computing_of(Computing(), wrong)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("tf32", 0.01), ("bf16", BF16_TOLERANCE)])
def test_a_gpu_agrees_with_the_cpu(tiny_vit, tiny_images, precision, tolerance):
    exact = one_pass(tiny_vit, tiny_images, statistics(tiny_vit))
    found = one_pass(tiny_vit.cuda(), tiny_images, statistics(tiny_vit), compute=Compute(precision=precision))
    for name in ("mean_patch", "heads", "rollout"):
        assert np.abs(found[name] - exact[name]).max() < tolerance * np.abs(exact[name]).max(), name


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError("Unable to allocate 4 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_sweep_survives_one_lack_of_memory_and_names_a_lasting_one(tmp_path, tiny_profile, error):
    """Of a GPU, of NumPy and of PyTorch on the CPU: once, the result is the same; always, it is one clear error."""
    machine._once.cache_clear()  # a process remembers what was too large
    path, room = tiny_profile(compute={"batch_size": 12}), [12]

    def short(module, given):
        if isinstance(module, PatchEmbed) and len(given[0]) > room[0]:
            raise error

    def swept(images):
        here = chapter.begin(str(path), "cpu", results_folder=str(tmp_path / f"room for {images}"))
        here.model("mae_finetuned")
        room[0] = images
        found = here.sweep({"mae_finetuned": here.images()}, {"clean": Clean()}, "embedding")
        return found["mae_finetuned"]["clean"], here.compute.batch_size

    hook = torch.nn.modules.module.register_module_forward_pre_hook(short)
    try:
        (whole, _), (halved, size) = swept(12), swept(6)
        assert size == 6
        np.testing.assert_allclose(halved, whole, rtol=0, atol=1e-6 * np.abs(whole).max())
        with pytest.raises(MemoryError, match="the device has no memory for one image; use --device cpu, a smaller"):
            swept(0)
    finally:
        hook.remove()
    assert not list((tmp_path / "room for 0").rglob("*.npz"))


def test_apples_gpu_is_taken_where_it_is_and_float64_is_left_to_the_cpu(monkeypatch):
    """None is at hand: the branches alone, by the device's type."""
    if not torch.backends.mps.is_available():
        with pytest.raises(ValueError, match=r"device 'mps': PyTorch sees no GPU of Apple's here; use --device cpu"):
            pick_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device() == pick_device("mps") == torch.device("mps")
    assert Compute().size_on(torch.device("mps")) == 64
    apples = SimpleNamespace(device=torch.device("mps"), cpu=lambda: torch.ones(2))  # has no double()
    assert doubled(apples).dtype == doubled(torch.ones(2)).dtype == torch.float64


def test_a_device_is_there_or_refused():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ["cuda:99", *(["cuda", "cuda:0", "cuda:1"] if not torch.cuda.is_available() else [])]:
        with pytest.raises(ValueError, match=rf"device '{name}': PyTorch sees \d+ CUDA devices"):
            pick_device(name)
    for name in ("gpu", "cuda:first", ""):
        with pytest.raises(ValueError, match=f"device '{name}': use auto, cpu"):
            pick_device(name)


@pytest.mark.parametrize("chosen", [None, "active"])
def test_threads_sleep_while_they_wait_unless_somebody_has_said_otherwise(chosen):
    given = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    given |= {"OMP_WAIT_POLICY": chosen} if chosen else {}
    code = "import mae_helpers, os, sys; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True).stdout
    assert told.split() == [chosen or "passive", "False"]


def test_no_chapter_imports_pytorch_before_our_modules_have_said_how_it_waits():
    for path in notebooks.find([]):
        for cell in notebooks.read(path)["cells"]:
            lines = cell["source"].splitlines() if cell["cell_type"] == "code" else []
            assert not [line for line in lines if line.startswith(("import torch", "from torch"))], path.name
