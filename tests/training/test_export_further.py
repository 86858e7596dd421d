"""What is made of a finished adapter: a fused copy that plain diffusers loads, a card, a push."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_bases import write_base
from training.make_pairs import World, make_world

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import RunResult
from unsafe2safe.editors.ip2p import Ip2pEditor
from unsafe2safe.jobs.train import run
from unsafe2safe.training.export import ExportError, fixed_picture
from unsafe2safe.training.export_merged import export_merged
from unsafe2safe.training.hub import push
from unsafe2safe.training.model_card import merged_card

# A rate at which a few steps do something that can be told from rounding.
SHORT = ["trainer.max_steps=4", "trainer.batch_size=2", "trainer.learning_rate=0.02"]
SHORT += ["trainer.warmup_steps=1", "trainer.gradient_check=false", "engine.threads=1"]
SMALL = {"resolution": 64, "steps": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), 3)


@pytest.fixture(scope="module")
def train(world: World, base: Path) -> Callable[..., RunResult]:
    """Runs train.py's job on the small base, in a folder, with overrides."""
    small = ["editor=ip2p", f"editor.weights={base}"]
    small += [f"editor.{name}={value}" for name, value in SMALL.items()]

    def trained(output: Path, *overrides: str) -> RunResult:
        arguments = [*world.overrides, *small, *SHORT, f"output_dir={output}", *overrides]
        return run(load("train", arguments))  # type: ignore[arg-type]

    return trained


@pytest.fixture(scope="module")
def editor(base: Path) -> Callable[..., Ip2pEditor]:
    """The small editor, with further settings."""
    values = dict(load("train", ["editor=ip2p"]).editor) | SMALL | {"weights": str(base)}  # type: ignore[attr-defined]
    return lambda **settings: build(values | settings, "editor", Ip2pEditor)


@pytest.fixture(scope="module")
def merged(train, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    output = tmp_path_factory.mktemp("merged") / "run"
    train(output)
    return output, train(output, "export.merge=true")  # of the finished run


def edit(editor: Ip2pEditor, pipeline: Any) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    return editor.run(pipeline, [fixed_picture(64)], ["give the person a green coat"], [7])


def test_the_merged_pipeline_loads_plainly_and_edits_as_the_adapter_does(merged, editor) -> None:
    from diffusers import StableDiffusionInstructPix2PixPipeline

    output, result = merged
    assert f"merged in {output / 'merged'}" in result.message
    plain = StableDiffusionInstructPix2PixPipeline.from_pretrained(output / "merged")
    assert not hasattr(plain.unet, "peft_config")
    with_adapter = edit(editor(), editor(adapter=output).load_pipeline())
    assert np.abs(edit(editor(), plain) - with_adapter).max() <= 1e-4
    assert np.abs(edit(editor(), editor().load_base()) - with_adapter).max() > 1e-3


def test_merged_again_nothing_is_written_and_the_denoiser_alone_replaces_the_pipeline(
    train, editor, merged, tmp_path: Path
) -> None:
    from diffusers import UNet2DConditionModel

    output = tmp_path / "run"
    shutil.copytree(merged[0], output)
    before = (output / "merged/unet/diffusion_pytorch_model.safetensors").stat().st_mtime_ns
    assert "is there already" in train(output, "export.merge=true").message
    now = (output / "merged/unet/diffusion_pytorch_model.safetensors").stat().st_mtime_ns
    assert now == before
    train(output, "export.merge=denoiser", "export.dtype=bfloat16")
    weights = load_file(output / "merged/diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    pipeline = editor().load_base()
    pipeline.unet = UNet2DConditionModel.from_pretrained(output / "merged")
    with_adapter = edit(editor(), editor(adapter=output).load_pipeline())
    base = edit(editor(), editor().load_base())
    rounded = np.abs(edit(editor(), pipeline) - with_adapter).mean()
    assert rounded < 0.5 * np.abs(base - with_adapter).mean()
    note = json.loads((output / "merged/merged.json").read_text())
    assert (note["dtype"], note["merge"]) == ("bfloat16", "denoiser")


@pytest.mark.parametrize(("dtype", "scale"), [(None, 0.9), ("bfloat16", 0.2)])
def test_a_fuse_that_loses_of_what_was_trained_is_refused(
    merged, editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str | None, scale: float
) -> None:
    from diffusers import StableDiffusionInstructPix2PixPipeline as Pipeline

    honest = Pipeline.fuse_lora
    monkeypatch.setattr(Pipeline, "fuse_lora", lambda *a, **k: honest(*a, **k, lora_scale=scale))
    trained = editor(adapter=merged[0])
    with pytest.raises(ExportError, match=r"export\.dtype=float32 rounds nothing"):
        export_merged(trained, tmp_path / "merged", merge=True, dtype=dtype)
    assert list(tmp_path.glob("*merged*")) == []


def test_a_caption_branch_cannot_be_merged_and_is_told_before_training(
    train, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"editor\.caption_branch=gated"):
        train(tmp_path / "run", "editor.caption_branch=gated", "export.merge=true")
    with pytest.raises(UsageError, match="task=attribute_reader has none"):
        run(load("train", ["task=attribute_reader", "export.merge=true"]))  # type: ignore[arg-type]


def test_the_cards_tell_data_figures_and_licence(merged) -> None:
    output, _ = merged
    for folder in ("adapter", "merged"):
        card = (output / folder / "README.md").read_text()
        header = yaml.safe_load(card.split("---\n")[1])
        assert header["license"] == "creativeml-openrail-m"
        assert "| data set | folder |" in card
        assert "| pairs | 3 |" in card
        assert "| peak learning rate | 0.02 |" in card
        assert card.count("## Metrics") == 1
        assert str(output.parent) not in card
    assert "in float32" in (output / "merged/README.md").read_text()


def test_a_base_of_the_hub_and_a_licence_without_commercial_use_stand_in_the_header() -> None:
    settings = dict(load("train", ["editor=ip2p"]).editor)  # type: ignore[attr-defined]
    of_hub = build(settings | {"licence": "X-NC", "commercial": False}, "editor", Ip2pEditor)
    header = yaml.safe_load(merged_card(of_hub, "Pipeline", "float32", 5).split("---\n")[1])
    assert header["base_model"] == "timbrooks/instruct-pix2pix"
    assert (header["license"], header["license_name"]) == ("other", "x-nc")


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as an upload takes; keeps what it is told."""

    created: ClassVar[list[dict]] = []
    stored: ClassVar[dict[str, bytes]] = {}
    tokens: ClassVar[set[str | None]] = set()
    public: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models/").split("?")[0]
        private = name not in self.public
        self._answer({"id": name, "private": private, "siblings": [], "sha": "0" * 40})

    def do_POST(self) -> None:
        self.tokens.add(self.headers["Authorization"])
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self.created.append(json.loads(body))
            name = json.loads(body)["name"]
            organization = json.loads(body).get("organization")
            where = f"{self.headers['Host']}/{organization}/{name}"
            self._answer({"url": f"http://{where}", "id": f"{organization}/{name}"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular"} for f in files]
            self._answer({"files": [mode | {"shouldIgnore": False} for mode in modes]})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                told = json.loads(line)
                if told["key"] == "file":
                    content = base64.b64decode(told["value"]["content"])
                    self.stored[told["value"]["path"]] = content
            url = f"http://{self.headers['Host']}/a/b/commit/{'0' * 40}"
            self._answer({"commitUrl": url, "commitOid": "0" * 40, "success": True})
        else:
            self._answer({})

    def _answer(self, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    for kept in (Hub.created, Hub.stored, Hub.tokens, Hub.public):
        kept.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_for_this_test")
    yield Hub
    server.shutdown()
    server.server_close()


def test_a_push_sends_the_adapter_and_its_card_to_a_private_repository(train, merged, hub) -> None:
    output, _ = merged
    result = train(output, "export.push_to_hub=someone/safe-editor")
    assert "adapter/ is at http://127.0.0.1" in result.message
    assert hub.created[0]["visibility"] == "private"
    assert hub.tokens == {"Bearer hf_for_this_test"}
    assert hub.stored == {
        path.name: path.read_bytes() for path in (output / "adapter").iterdir() if path.is_file()
    }
    assert {"README.md", "adapter.json", "pytorch_lora_weights.safetensors"} == set(hub.stored)


@pytest.mark.parametrize("kind", ["picture", "hidden", "link", "card", "header"])
def test_nothing_leaves_that_is_not_known_to_be_public(
    merged, hub, tmp_path: Path, kind: str
) -> None:
    output, _ = merged
    folder = tmp_path / "adapter"
    shutil.copytree(output / "adapter", folder)
    private = tmp_path / "private"
    if kind == "picture":
        (folder / "p00.png").write_bytes(b"x")
    elif kind == "hidden":
        (folder / ".env.json").write_text("{}")
    elif kind == "link":
        (folder / "more.json").symlink_to(tmp_path / "elsewhere.json")
    elif kind == "card":
        (folder / "README.md").write_text(f"trained on {private.resolve()}/captions")
    else:
        header = json.dumps({"__metadata__": {"from": str(private.resolve())}}).encode()
        content = len(header).to_bytes(8, "little") + header
        (folder / "pytorch_lora_weights.safetensors").write_bytes(content)
    with pytest.raises(UsageError, match=r"was not written by an export|names a place"):
        push(folder, "someone/safe-editor", True, [private])
    assert hub.stored == {}
    assert hub.created == []


def test_a_repository_that_is_public_already_is_not_written_unasked(merged, hub) -> None:
    hub.public.add("someone/open")
    with pytest.raises(UsageError, match=r"is public on the hub: give export\.private=false"):
        push(merged[0] / "adapter", "someone/open", True, [])
    assert hub.stored == {}
    push(merged[0] / "adapter", "someone/open", False, [])
    assert "README.md" in hub.stored


def test_without_a_login_it_is_told_before_training(
    train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="hf auth login"):
        train(tmp_path / "run", "export.push_to_hub=someone/safe-editor")
    assert not (tmp_path / "run").exists()
