"""trainer.strategy, gradient_checkpointing, compile, attention, precision: what they change is not
what is learned; what does not go together is told before any weight is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from editors.tiny_kontext import SIDE, kontext, save_tiny_kontext
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from training.test_klein_training import images
from training.test_quantized_bases import KEYS, objective

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema_train import Train, Trainer
from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.attention import set_attention
from unsafe2safe.jobs.train import run
from unsafe2safe.training import network_options, scale
from unsafe2safe.training.averaging import WeightAverage
from unsafe2safe.training.gradient_check import check_gradients
from unsafe2safe.training.module import TaskModule
from unsafe2safe.training.network_options import as_configured
from unsafe2safe.training.recipe import Recipe
from unsafe2safe.training.scale import checked_scale
from unsafe2safe.training.sharding import kept, put, shard
from unsafe2safe.training.task import PairBatch
from unsafe2safe.training.token_task import TokenEditTask


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_kontext(tmp_path_factory.mktemp("kontext"))


@pytest.fixture
def task(base: Path) -> TokenEditTask:
    return new_task(base)


def new_task(base: Path, **settings: Any) -> TokenEditTask:
    made = TokenEditTask(kontext(weights=str(base), **settings), objective(), 4)
    with torch.no_grad():  # B begins at zero, and A has no gradient before it moves
        for name, weight in made.trainable_parameters().items():
            if "lora_B" in name:
                weight.copy_(torch.linspace(-0.1, 0.1, weight.numel()).view_as(weight))
    return made


def trainer(**values: Any) -> Trainer:
    config = load("train")
    assert isinstance(config, Train)
    return config.trainer.model_copy(update=values)


BATCH = PairBatch(
    KEYS, images(0)[..., :SIDE, :SIDE], images(1)[..., :SIDE, :SIDE], ("a", "b"), ("a", "b")
)


def one_step(task: TokenEditTask) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss, and the gradient of every trained weight."""
    prepared = task.prepare(BATCH)
    loss = task.loss(prepared, task.draw(KEYS, prepared)).mean()
    loss.backward()
    gradients = {}
    for name, weight in task.trainable_parameters().items():
        assert weight.grad is not None, name
        gradients[name] = kept(weight.grad).clone()
        weight.grad = None
    return float(loss.detach()), gradients


def assert_equal_steps(one: Any, other: Any, tolerance: float = 1e-6) -> None:
    assert one[0] == pytest.approx(other[0], abs=tolerance)
    assert one[1].keys() == other[1].keys()
    assert any(value.abs().max() > 100 * tolerance for value in one[1].values())
    for name, value in one[1].items():
        torch.testing.assert_close(value, other[1][name], atol=tolerance, rtol=1e-5)


def test_checkpointed_blocks_are_recomputed_and_give_the_same_gradients(
    task: TokenEditTask,
) -> None:
    block, ran = task.denoiser.transformer_blocks[0].ff, []
    block.register_forward_hook(lambda *_: ran.append(torch.is_grad_enabled()))
    plain = one_step(task)
    assert len(ran) == 1
    with as_configured(task.denoiser, trainer(gradient_checkpointing=True)):
        checkpointed = one_step(task)
    assert len(ran) == 3  # forward, and again in the backward pass
    assert_equal_steps(plain, checkpointed)
    one_step(task)
    assert len(ran) == 4  # and not afterwards


@pytest.mark.slow
def test_compiled_blocks_give_the_same_gradients(
    task: TokenEditTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, plain = [], one_step(task)

    def count(graph: Any, _: Any) -> Any:
        compiled.append(graph)
        return graph

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile_(model, backend=count))
    with as_configured(task.denoiser, trainer(compile="blocks")):
        assert_equal_steps(plain, one_step(task), 1e-5)
    assert compiled
    # and not afterwards: the export is proven with what edits run
    assert all(module._compiled_call_impl is None for module in task.denoiser.modules())


def test_an_attention_backend_is_used_while_training_and_no_longer(
    task: TokenEditTask, base: Path
) -> None:
    plain, processor = one_step(task), task.denoiser.transformer_blocks[0].attn.processor
    with as_configured(task.denoiser, trainer(attention="_native_math")):
        assert processor._attention_backend == "_native_math"
        assert_equal_steps(plain, one_step(task), 1e-5)
    assert processor._attention_backend is None
    editor = kontext(weights=str(base), attention="_native_math")
    edits = editor.pipeline.transformer.transformer_blocks[0].attn.processor
    assert edits._attention_backend == "_native_math"
    assert _AttentionBackendRegistry._active_backend == "native"  # no other model's
    set_attention(editor.pipeline.transformer, None)
    assert edits._attention_backend is None


def test_processes_do_not_send_each_other_a_packed_base(base: Path, one_rank: Any) -> None:
    packed = new_task(base, quantize="torchao_int8")
    module = TaskModule(packed, None, trainer(), 0, None)  # type: ignore[arg-type]
    module.configure_model()
    parallel = DistributedDataParallel(module)
    sent = [
        name for name, _ in module.named_parameters() if name not in parallel.parameters_to_ignore
    ]
    assert sent == [f"network.{name}" for name in packed.trainable_parameters()]


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[Any]:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        torch.distributed.destroy_process_group()


def test_shared_out_fp32_lora_on_a_bf16_base_learns_as_it_does_whole(
    base: Path, one_rank: Any
) -> None:
    plain, shared = (new_task(base, dtype="bfloat16") for _ in range(2))
    names = list(shared.trainable_parameters())
    expected = one_step(plain)
    shard(shared.denoiser, one_rank)
    weights = shared.trainable_parameters()
    assert list(weights) == names
    kinds = {type(block).__name__ for block in shared.denoiser.modules()}
    assert {"FSDPFluxTransformerBlock", "FSDPFluxSingleTransformerBlock"} <= kinds
    assert all(isinstance(w, DTensor) for w in shared.denoiser.parameters())
    assert {w.dtype for w in weights.values()} == {torch.float32}
    assert_equal_steps(expected, one_step(shared))
    with as_configured(shared.denoiser, trainer(gradient_checkpointing=True)):
        assert_equal_steps(expected, one_step(shared))

    # what checks, averages and checkpoints do with weights in parts
    def loss(_: int) -> torch.Tensor:
        prepared = shared.prepare(BATCH)
        return shared.loss(prepared, shared.draw(KEYS, prepared)).mean()

    check_gradients(shared.network, shared.trainable_parameters(), loss, 1e-2)
    average = WeightAverage(shared.trainable_parameters(), 0.9)
    average.update()
    state = average.state_dict()
    assert all(type(value) is torch.Tensor for value in state["average"].values())
    moved = {name: value + 1 for name, value in state["average"].items()}
    average.load_state_dict({**state, "average": moved})
    average.apply()
    for name, weight in shared.trainable_parameters().items():
        torch.testing.assert_close(kept(weight.detach()), moved[name])
        with torch.no_grad():
            put(moved[name] - 2, weight)
        torch.testing.assert_close(kept(weight.detach()), moved[name] - 2)


def test_under_fp16_autocast_what_is_frozen_keeps_its_own_numbers() -> None:
    seen = []

    class Asked:
        denoiser, network = None, nn.Linear(1, 1)

        def prepare(self, batch: Any) -> None:
            seen.append(torch.is_autocast_enabled("cpu"))

        def draw(self, keys: Any, prepared: Any) -> None: ...

        def loss(self, prepared: Any, draws: Any) -> torch.Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            return torch.ones(2)

    module = TaskModule(Asked(), None, trainer(), 0, None)  # type: ignore[arg-type]
    for dtype, expected in ((torch.float16, [False, True]), (torch.bfloat16, [True, True])):
        seen.clear()
        with torch.autocast("cpu", dtype):
            module.batch_loss(BATCH)
        assert seen == expected


KONTEXT = ("editor=kontext", "editor.weights=/no/such/folder")
TWO = ("trainer.devices=2", "trainer.accelerator=cpu")
REFUSED = {
    "16-mixed needs a GPU": ("trainer.precision=16-mixed", "trainer.accelerator=cpu"),
    r"editor\.dtype=float16 trains with trainer\.precision=16-mixed": (
        "editor=ip2p", "editor.dtype=float16",
    ),
    "nf4 and trainer.strategy=fsdp do not go together": (
        *KONTEXT, *TWO, "trainer.strategy=fsdp", "editor.quantize=nf4",
    ),
    "AdamW8bit and trainer.strategy=fsdp do not go together": (
        *KONTEXT, *TWO, "trainer.strategy=fsdp", "optimizer=adamw_8bit",
    ),
    "deepspeed, which is not there: pip install deepspeed": (
        *KONTEXT, *TWO, "trainer.strategy=deepspeed",
    ),
    "quantized weights cannot be trained as a whole": (
        *KONTEXT, "editor.quantize=int8", "editor.trainable=full", "editor.dtype=float32",
    ),
    "trainer.attention=flsh is no attention backend; did you mean 'flash'": (
        *KONTEXT, "trainer.attention=flsh",
    ),
    "editor.attention=flash_hub would run code from the hub": (
        *KONTEXT, "editor.attention=flash_hub",
    ),
    "trainer.attention=sage cannot be used on cpu": (
        *KONTEXT, "trainer.attention=sage", "trainer.accelerator=cpu",
    ),
    "trainer.attention=flash: UNets take torch's own attention": ("trainer.attention=flash",),
    "trainer.compile=blocks is for the denoisers of editors; task=attribute_reader": (
        "experiment=attribute_reader", "trainer.compile=blocks",
    ),
    "trainer.strategy=fsdp is for the denoisers": (
        "experiment=attribute_reader", "trainer.strategy=fsdp",
    ),
}  # fmt: skip


@pytest.mark.parametrize("told", REFUSED)
def test_what_does_not_go_together_is_told_before_any_weight_is_loaded(told: str) -> None:
    with pytest.raises(UsageError, match=told) as refused:
        run(load("train", [*REFUSED[told], "pairs=/no/such/folder"]))  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def test_deepspeed_is_given_what_it_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "find_spec", lambda name: name)
    monkeypatch.setattr(scale, "device_type", lambda settings: "cuda")
    unchecked = "trainer.gradient_check=false"
    needs = {
        unchecked: (),
        "trainer.precision=32-true": (unchecked, "trainer.precision=bf16-mixed"),
        "trainer.ema=null": (unchecked, "trainer.ema=0.9", "trainer.zero_stage=3"),
    }
    for needed, overrides in needs.items():
        with pytest.raises(UsageError, match=f"strategy=deepspeed needs {needed}"):
            checked([*KONTEXT, *TWO, "trainer.strategy=deepspeed", *overrides])


def checked(overrides: list[str]) -> Train:
    config = load("train", overrides)
    assert isinstance(config, Train)
    recipe = build(config.task, "task", Recipe)  # type: ignore[type-abstract]
    return checked_scale(config, recipe)


def test_training_takes_the_editors_attention_unless_it_is_given_its_own() -> None:
    own = checked([*KONTEXT, "editor.attention=_native_math"])
    assert own.trainer.attention == "_native_math"
    other = checked([*KONTEXT, "editor.attention=_native_math", "trainer.attention=native"])
    assert other.trainer.attention == "native"
    assert checked([*KONTEXT]).trainer.attention is None


def test_without_a_compiler_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_options.shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match=r"trainer\.compile=blocks needs a C\+\+ compiler"):
        checked([*KONTEXT, "trainer.compile=blocks", "trainer.accelerator=cpu"])


def test_of_several_started_processes_one_tells_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    result = run(load("train", ["mode=plan", "plan.model=nothing"]))  # type: ignore[arg-type]
    assert result.output_dir is None
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UsageError, match=r"plan\.model=nothing"):
        run(load("train", ["mode=plan", "plan.model=nothing"]))  # type: ignore[arg-type]
