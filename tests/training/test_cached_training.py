"""train.py on a cache: the losses of a run without, and no encoder where it is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from editors.tiny_kontext import SIDE, TEXT_TOKENS, kontext, save_tiny_kontext
from safetensors import safe_open
from tiny_bases import write_base
from training.make_pairs import World, make_world
from training.test_train_job import losses
from transformers import PreTrainedModel

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import ExitStatus, RunResult
from unsafe2safe.editors.fine_tuning import TrainableEditor
from unsafe2safe.editors.token_editor import TokenEditor
from unsafe2safe.jobs.train import run
from unsafe2safe.training.cache.opening import is_wanted
from unsafe2safe.training.editor_task import FineTuningTask
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


@pytest.fixture(scope="module")
def ip2p_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("ip2p"))


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


@pytest.mark.parametrize("family", ["kontext", pytest.param("ip2p", marks=pytest.mark.slow)])
def test_cached_and_uncached_runs_have_the_same_losses_and_a_complete_cache_needs_no_encoder(
    family: str,
    world: World,
    kontext_base: Path,
    ip2p_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if family == "kontext":
        choices = on_kontext(kontext_base)
    else:
        branch = ["editor.caption_branch=safe", "editor.source=blur"]
        choices = ["editor=ip2p", f"editor.weights={ip2p_base}", "editor.resolution=64", *branch]
        choices.append("editor.steps=2")
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
    if family == "kontext":  # with a branch they lie elsewhere
        assert adapters[0].read_bytes() == adapters[1].read_bytes()
    cards = [(tmp_path / n / "adapter/adapter.json").read_bytes() for n in ("online", "complete")]
    assert cards[0] == cards[1]  # the fingerprint of the base among them


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
