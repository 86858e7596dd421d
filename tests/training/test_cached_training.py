"""train.py on a cache: the losses of a run without, and no encoder where it is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from editors.tiny_kontext import SIDE, TEXT_TOKENS, kontext, save_tiny_kontext
from editors.tiny_qwen_edit import SIDE as QWEN_SIDE
from editors.tiny_qwen_edit import save_tiny_qwen_edit
from safetensors import safe_open
from tiny_bases import write_base
from tiny_xl import write_single_file, write_xl
from training.make_pairs import World, make_world
from training.test_token_task import objective
from training.test_train_job import losses
from transformers import PreTrainedModel

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import ExitStatus, RunResult
from unsafe2safe.editors.fine_tuning import TrainableEditor
from unsafe2safe.editors.token_editor import TokenEditor
from unsafe2safe.jobs.train import run
from unsafe2safe.objectives.base import ObjectiveSettings
from unsafe2safe.training.cache.opening import is_wanted
from unsafe2safe.training.cache.rows import first_row
from unsafe2safe.training.editor_recipe import task_of
from unsafe2safe.training.editor_task import FineTuningTask, TaskOptions
from unsafe2safe.training.token_task import TokenEditTask
from unsafe2safe.training.validation.results import read_results

STEPS = ["trainer.max_steps=4", "trainer.batch_size=2", "trainer.gradient_check=false"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), 3)


def train(world: World, output: Path, *overrides: str) -> RunResult:
    arguments = [*world.overrides, "engine.threads=1", f"output_dir={output}", *overrides]
    return run(load("train", arguments))  # type: ignore[arg-type]


def on_kontext(base: Path) -> list[str]:
    return [
        "editor=kontext",
        f"editor.weights={base}",
        "editor.dtype=float32",
        f"editor.resolution={SIDE}",
        "editor.steps=2",
        f"editor.text_tokens={TEXT_TOKENS}",
        "editor.rank=2",
    ]


@pytest.fixture(scope="module")
def kontext_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_kontext(tmp_path_factory.mktemp("kontext"))


def no_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autoencoders and text encoders cannot be loaded before the export asks for them."""
    allowed: list[bool] = []
    load_encoders = FineTuningTask.load_encoders
    kinds: list[Any] = [AutoencoderKL, PreTrainedModel]

    def load(task: Any) -> None:
        allowed.append(True)
        load_encoders(task)

    monkeypatch.setattr(FineTuningTask, "load_encoders", load)
    for kind in kinds:
        plain = kind.from_pretrained.__func__

        def guarded(cls: Any, *given: Any, _plain: Any = plain, **settings: Any) -> Any:
            assert allowed, f"{cls.__name__} is loaded"
            return _plain(cls, *given, **settings)

        monkeypatch.setattr(kind, "from_pretrained", classmethod(guarded))


def on_unet(family: str, base: Path, *overrides: str) -> list[str]:
    sized = ["editor.resolution=64", "editor.dtype=float32", "editor.steps=2"]
    return [f"editor={family}", f"editor.weights={base}", *sized, *overrides]


def on_qwen_edit(base: Path) -> list[str]:
    small = {"dtype": "float32", "resolution": QWEN_SIDE, "text_image_side": QWEN_SIDE, "steps": 2}
    shown = [f"editor.{key}={value}" for key, value in small.items()]
    return ["editor=qwen_edit", f"editor.weights={base}", *shown, "editor.rank=2"]


def choices_of(family: str, folder: Path) -> list[str]:
    """A toy base of the family, written to ``folder``, and what trains on it."""
    if family == "kontext":
        return on_kontext(save_tiny_kontext(folder))
    if family == "qwen_edit":  # whose texts see the source, and are of unequal lengths
        return [*on_qwen_edit(save_tiny_qwen_edit(folder)), "objective.image_dropout=0.2"]
    if family == "sdxl_ip2p":  # two text encoders, and a pooled text
        return on_unet(family, write_xl(folder))
    return on_unet(family, write_base(folder), "editor.caption_branch=safe", "editor.source=blur")


SLOW = ("ip2p", "sdxl_ip2p", "qwen_edit")


@pytest.mark.parametrize(
    "family", ["kontext", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_cached_and_uncached_runs_have_the_same_losses_and_a_complete_cache_needs_no_encoder(
    family: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = choices_of(family, tmp_path / "base")
    choices += [*STEPS, "objective.text_dropout=0.3", "editor.captions=public+instruction"]
    choices.append(f"paths.private={tmp_path / 'private'}")

    def trained(name: str, mode: str) -> list[float]:
        output = tmp_path / name
        assert train(world, output, *choices, f"cache.mode={mode}").status is ExitStatus.DONE
        return [loss for _, loss, _ in losses(output)]

    online = trained("online", "off")
    assert not (tmp_path / "private/caches").exists()
    built = trained("built", "auto")
    no_encoders(monkeypatch)
    complete = trained("complete", "on")
    assert built == complete
    assert built == pytest.approx(online, abs=1e-5)
    adapters = [
        tmp_path / name / "adapter/pytorch_lora_weights.safetensors"
        for name in ("built", "complete")
    ]
    if family != "ip2p":  # with a branch they lie elsewhere
        assert adapters[0].read_bytes() == adapters[1].read_bytes()
    cards = [(tmp_path / n / "adapter/adapter.json").read_bytes() for n in ("online", "complete")]
    assert cards[0] == cards[1]  # the fingerprint of the base among them
    if family == "qwen_edit":
        (folder,) = (tmp_path / "private/caches").iterdir()
        assert len(text_lengths(folder)) == 3  # so that those of a batch were filled up


def text_lengths(folder: Path) -> set[int]:
    """In tokens, of the texts that a cache holds."""
    lengths = set()
    for path in (folder / "rows").glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            rows = [name for name in file.keys() if name.endswith("/text.tokens")]  # noqa: SIM118
            lengths |= {file.get_slice(name).get_shape()[0] for name in rows}
    return lengths


def fresh_task(family: str, base: Path, options: TaskOptions | None = None) -> FineTuningTask:
    if family == "kontext":
        return TokenEditTask(kontext(weights=str(base)), objective(), 4, options)
    config = on_unet("ip2p", base) if family == "ip2p" else on_cosxl(base)
    chosen: Any = load("train", config)
    editor = build(chosen.editor, "editor", TrainableEditor)  # type: ignore[type-abstract]
    settings = build(chosen.objective, "objective", ObjectiveSettings)  # type: ignore[type-abstract]
    return task_of(editor)(editor, settings, 4, options)


def on_cosxl(folder: Path) -> list[str]:
    file = folder / "cosxl_edit.safetensors"
    return on_unet("cosxl", file, f"editor.layout={folder}")


@pytest.mark.parametrize(
    "family", ["kontext", pytest.param("ip2p", marks=pytest.mark.slow), "cosxl"]
)
def test_to_edit_and_to_export_the_encoders_alone_are_loaded(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    if family == "cosxl":
        write_single_file(write_xl(base, kind="cosxl"), base / "cosxl_edit.safetensors")
    else:
        {"kontext": save_tiny_kontext, "ip2p": write_base}[family](base)
    whole = fresh_task(family, base)
    cached = fresh_task(family, base, TaskOptions(no_text=first_row(whole.no_text)))
    assert cached.base is None
    # from here on no weight of the denoiser can be read
    denoiser, *encoders = cached.editor.parts
    for file in (base / denoiser).glob("*.safetensors"):
        file.unlink()
    monkeypatch.setattr(UNet2DConditionModel, "from_single_file", lambda *_, **__: 1 / 0)
    cached.load_encoders()
    assert cached.base == whole.base
    for name in encoders:
        loaded, expected = (getattr(one.pipeline, name).state_dict() for one in (cached, whole))
        assert all(torch.equal(loaded[key], value) for key, value in expected.items())
    assert not any(weight.is_meta for weight in cached.network.parameters())


def test_a_cache_of_another_base_is_told_before_any_weight_is_loaded(
    world: World, kontext_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = save_tiny_kontext(tmp_path / "other", guidance=False)
    folder = tmp_path / "cache"
    cached = [*STEPS, "cache.mode=on", f"cache.folder={folder}", "trainer.max_steps=1"]
    train(world, tmp_path / "run", *on_kontext(other), *cached)

    def loads(*_: Any, **__: Any) -> Any:
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(TokenEditor, "load_base", loads)
    with pytest.raises(UsageError, match=r"cache\.folder=.* was made with editor\.weights='"):
        train(world, tmp_path / "second", *on_kontext(kontext_base), *cached)
    with pytest.raises(UsageError, match=r"made with editor\.text_tokens='16', and this is '8'"):
        train(world, tmp_path / "third", *on_kontext(other), *cached, "editor.text_tokens=8")
    assert not (tmp_path / "second").exists()

    told = train(world, tmp_path / "run", *on_kontext(kontext_base), *cached, "mode=purge").message
    assert told.startswith(f"deleted {folder} (")
    assert not folder.exists()
    told = train(world, tmp_path / "run", *on_kontext(kontext_base), *cached, "mode=purge").message
    assert told == f"nothing to delete at {folder}"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["cache.folder={output}/cache"], r"cache\.folder=.* lies inside output_dir="),
        (["cache.folder={root}/outputs/c"], r"cache\.folder=.* lies inside paths\.runs="),
        (["task=synthetic_editing"], r"cache\.mode=on: task=synthetic_editing caches nothing"),
        (["cache.folder={root}/photos"], r"photos holds files, and no cache of ours"),
    ],
)
def test_wrong_choices_get_one_clear_line(
    overrides: list[str],
    told: str,
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TrainableEditor, "load_base", lambda *_: pytest.fail("loaded"))
    filled = [o.format(output=tmp_path / "run", root=world.root) for o in overrides]
    with pytest.raises(UsageError, match=told):
        train(world, tmp_path / "run", *STEPS, "cache.mode=on", *filled)


def test_by_itself_a_cache_is_for_encoders_that_take_time_and_pairs_that_come_twice() -> None:
    config: Any = load("train", ["trainer.max_steps=10", "trainer.batch_size=2"])
    assert is_wanted(config, kontext(weights="a/b"), 10)
    assert not is_wanted(config, kontext(weights="a/b"), 11)
    from training.fake_cache import tiny

    assert not is_wanted(config, tiny(), 1)
    on: Any = load("train", ["cache.mode=on"])
    assert is_wanted(on, tiny(), 10**9)


def test_encoders_compute_in_their_own_number_type_whatever_trains(kontext_base: Path) -> None:
    from training.test_token_task import batch, build_task

    task = build_task(kontext_base)
    plain = task.prepare(batch())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = task.prepare(batch())
    assert torch.equal(plain.source, mixed.source)
    assert torch.equal(plain.text.tokens, mixed.text.tokens)


@pytest.mark.slow
def test_two_processes_make_one_cache_and_train_on_it_as_one_does(
    world: World, tmp_path: Path
) -> None:
    shared = ["editor.init_seed=0", "engine.unit_size=1", "trainer.max_steps=4"]
    for name, choices in (
        ("alone", ["trainer.batch_size=2", "cache.mode=off"]),
        ("both", ["trainer.batch_size=1", "trainer.devices=2", "cache.mode=on"]),
    ):
        private = f"paths.private={tmp_path / name / 'private'}"
        train(world, tmp_path / name / "run", *shared, *choices, private)
    alone, both = (
        [loss for _, loss, _ in losses(tmp_path / name / "run")] for name in ("alone", "both")
    )
    assert both == pytest.approx(alone, abs=1e-5)
    (folder,) = (tmp_path / "both/private/caches").iterdir()
    keys: list[str] = []
    for path in (folder / "rows").glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            keys += file.keys()
    assert len(keys) == len(set(keys))


@pytest.mark.slow
def test_validations_edit_on_a_cache_as_without_and_training_goes_on_alike(
    kontext_base: Path, tmp_path: Path
) -> None:
    world = make_world(tmp_path / "world", 6, regions=True)
    validated = ["validation.every=2", "validation.share=0.4", "validation.samples=2"]
    runs = []
    for mode in ("on", "off"):
        settings = [*on_kontext(kontext_base), "editor.steps=1", *STEPS, *validated]
        runs.append(tmp_path / mode)
        train(world, runs[-1], *settings, f"cache.mode={mode}")
    cached, online = ([loss for _, loss, _ in losses(folder)] for folder in runs)
    assert len(cached) == len(online) == 4
    assert cached == pytest.approx(online, abs=1e-5)
    for kept, fresh in zip(*map(read_results, runs), strict=True):
        assert kept.step == fresh.step
        assert kept.points[0].metrics == pytest.approx(fresh.points[0].metrics, abs=1e-3)
