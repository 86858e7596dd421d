"""What train.py refuses, it refuses in one line, before it reads any weight."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import safetensors.torch
import torch
import transformers
from diffusers.models.modeling_utils import ModelMixin
from editors.tiny_kontext import SIDE, TEXT_TOKENS, save_tiny_kontext
from tiny_bases import write_base
from training.make_pairs import World, make_world

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.files import write_json
from unsafe2safe.core.records import ExitStatus
from unsafe2safe.editors import tiny
from unsafe2safe.jobs import command_line, multirun
from unsafe2safe.training.cache.opening import PairCache
from unsafe2safe.training.editor_recipe import trainable_editor
from unsafe2safe.training.token_task import TokenEditTask

NO_GPU = not torch.accelerator.is_available()
TOO_MANY = 2 if NO_GPU else torch.accelerator.device_count() + 1  # few, should they be started


class Made:
    """Folders that wrong values name, each made once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.world = make_world(root / "world", 2)
        self.unequal = make_world(root / "unequal", 2, bad=(0, 1))
        self.ip2p = write_base(root / "ip2p")
        self._kontext = save_tiny_kontext(root / "kontext")

    @property
    def kontext(self) -> list[str]:
        small = {"dtype": "float32", "resolution": SIDE, "text_tokens": TEXT_TOKENS, "rank": 2}
        settings = [f"editor.{key}={value}" for key, value in small.items()]
        return ["editor=kontext", f"editor.weights={self._kontext}", *settings]

    def cache_of_another_base(self) -> str:
        """``cache.folder=`` with the card of a cache that the same command made of other weights;
        test_cached_training makes a real one."""
        config = load("train", [*self.world.overrides, *self.kontext, "cache.mode=on"])
        assert isinstance(config, Train)
        cache = PairCache.of(config, trainable_editor(config), TokenEditTask, "folder")
        settings = {**cache.settings, "editor.weights": "another"}
        write_json(self.root / "cache/cache.json", {"settings": settings})
        return f"cache.folder={self.root / 'cache'}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("wrong"))


class WeightsRead(Exception):
    """What was to be refused before has come this far."""


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights can be read or drawn."""

    def read(*_: Any, **__: Any) -> Any:
        raise WeightsRead

    whole: tuple[Any, ...] = (
        diffusers.DiffusionPipeline, ModelMixin, transformers.PreTrainedModel,
    )  # fmt: skip
    for kind in whole:
        monkeypatch.setattr(kind, "from_pretrained", classmethod(read))
    for module, name in (
        (safetensors, "safe_open"),
        (safetensors.torch, "load_file"),
        (torch, "load"),
        (tiny, "build_pipeline"),
    ):
        monkeypatch.setattr(module, name, read)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs train.py in this process: its exit status, and the lines of its standard error but for
    the count of pairs that were looked at."""

    def run(*overrides: str) -> tuple[int, list[str]]:
        with monkeypatch.context() as process:
            process.setattr("sys.argv", ["train.py", "engine.threads=1", *overrides])
            process.setenv("HYDRA_FULL_ERROR", "1")
            process.setattr(multirun, "_results", [])  # of this process's jobs so far
            process.setattr(logging.root, "handlers", [])  # so that it sets up its own
            level = logging.getLogger("unsafe2safe").level
            try:
                with pytest.raises(SystemExit) as ended:
                    command_line.main("train")
            finally:
                logging.getLogger("unsafe2safe").setLevel(level)
        lines = capsys.readouterr().err.splitlines()
        said = [line for line in lines if not line.startswith("reading pairs: ")]
        return int(ended.value.code or 0), said

    return run


Overrides = Callable[[Made], list[str]]


def with_pairs(*overrides: str, editor: Overrides = lambda _: []) -> Overrides:
    return lambda made: [*made.world.overrides, *editor(made), *overrides]


def kontext(made: Made) -> list[str]:
    return made.kontext


def ip2p(made: Made) -> list[str]:
    return ["editor=ip2p", f"editor.weights={made.ip2p}", "editor.resolution=64"]


def without_pairs(world: World, *overrides: str) -> list[str]:
    return [o for o in world.overrides if not o.startswith("pairs=")] + [*overrides]


WRONG: dict[str, tuple[Overrides, str]] = {
    "an unknown editor": (with_pairs("editor=kontxt"), "editor=kontxt"),
    "an unknown key of an editor": (
        with_pairs("editor.rnk=4"), "did you mean 'editor.rank'",
    ),
    "an editor without weights": (with_pairs("editor=redact"), "editor=redact has no weights"),
    "a base that is not there": (
        with_pairs("editor.weights=/no/such/base", editor=kontext),
        "editor.weights=/no/such/base is no folder",
    ),
    "a LoRA target without match, shipped base": (
        with_pairs("editor.targets=[to_q,to_x]"), "editor.targets: 'to_x' matches no layer",
    ),
    "a LoRA target without match, random base": (
        with_pairs("editor.init_seed=0", "editor.targets=[to_x]"),
        "editor.targets: 'to_x' matches no layer",
    ),
    "a LoRA target without match, InstructPix2Pix": (
        with_pairs("editor.targets=['re:mid.*to_x']", editor=ip2p),
        "editor.targets: 're:mid.*to_x' matches no layer",
    ),
    "a LoRA target without match, Kontext": (
        with_pairs("editor.targets=[attn.to_x]", editor=kontext),
        "editor.targets: 'attn.to_x' matches no layer",
    ),
    "a LoRA target without match, text encoder": (
        with_pairs("editor.text_encoder_targets=[to_q]"),  # its layers are called q_proj
        "editor.text_encoder_targets: 'to_q' matches no layer",
    ),
    "a LoRA target without match, synthetic scenes": (
        lambda made: [*made.world.overrides, "task=synthetic_editing", "editor.targets=[to_x]"],
        "editor.targets: 'to_x' matches no layer",
    ),
    "pairs that are not there": (
        lambda made: without_pairs(made.world, "pairs=/no/such/run"), "pairs=/no/such/run",
    ),
    "no pairs made yet": (
        lambda made: without_pairs(made.world), "python anonymize.py write_pairs=true",
    ),
    "pairs of unequal size": (
        lambda made: made.unequal.overrides,
        "none of 2 pairs can be used (p00.png: source and target differ in size (90x70 and 90x71))",
    ),
    "a cache of another base": (
        lambda made: [
            *made.world.overrides, *made.kontext, "cache.mode=on", made.cache_of_another_base(),
        ],
        "was made with editor.weights='another'",
    ),
    "a base in fp16 without scaled gradients": (
        with_pairs("editor.dtype=float16", editor=ip2p),
        "editor.dtype=float16 trains with trainer.precision=16-mixed alone",
    ),
    "an fp16 autoencoder, where the base cannot be without": (
        with_pairs("editor.dtype=float16", editor=kontext),
        "editor.dtype=float16: editor=kontext takes bfloat16 or float32",
    ),
    "fp16 on a CPU": (
        with_pairs("trainer.precision=16-mixed", "trainer.accelerator=cpu"),
        "trainer.precision=16-mixed needs a GPU",
    ),
    "true fp16": (with_pairs("trainer.precision=16-true"), "trainer.precision='16-true'"),
    "too few GPUs": (
        with_pairs("trainer.accelerator=gpu", f"trainer.devices={TOO_MANY}"),
        "trainer.accelerator=gpu: torch sees no GPU"
        if NO_GPU else f"trainer.devices={TOO_MANY}: this machine shows",
    ),
    "too few nodes": (
        with_pairs("trainer.num_nodes=2"), "start train.py on each node with torchrun or srun",
    ),
}  # fmt: skip


@pytest.mark.parametrize("value", WRONG)
def test_a_wrong_value_is_one_line_and_no_weight_is_read(
    made: Made, script: Any, unreadable: None, tmp_path: Path, value: str
) -> None:
    overrides, told = WRONG[value]
    output = tmp_path / "run"
    status, lines = script(*overrides(made), f"output_dir={output}")
    assert status == ExitStatus.UNUSABLE, lines
    assert len(lines) == 1
    assert lines[0].startswith("train.py: ")
    assert told in lines[0]


@pytest.mark.parametrize("editor", [kontext, ip2p, lambda _: [], lambda _: ["editor.init_seed=0"]])
def test_right_values_come_as_far_as_the_weights(
    made: Made, script: Any, unreadable: None, tmp_path: Path, editor: Overrides
) -> None:
    status, lines = script(*with_pairs(editor=editor)(made), f"output_dir={tmp_path / 'run'}")
    assert status == ExitStatus.FAULT
    assert any("WeightsRead" in line for line in lines)


@pytest.mark.skipif(not NO_GPU, reason="a GPU is there: one too many is told above")
def test_fewer_gpus_than_asked_for_are_counted(
    made: Made, script: Any, unreadable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    status, lines = script(*made.world.overrides, "trainer.devices=4")
    assert status == ExitStatus.UNUSABLE
    assert lines == ["train.py: trainer.devices=4: this machine shows 2 CUDA devices"]
