"""The commands of the README on a miniature COCO, one after another, without further arguments."""

import csv
import json

import pytest
from conftest import run_script
from miniatures import write_miniature_coco

from unsafe2safe.core.records import Outcome
from unsafe2safe.core.tables import read_records


def only(folder):
    (found,) = folder.iterdir()
    return found


@pytest.mark.slow
def test_three_commands_chain_by_themselves_and_resume(tmp_path):
    images = write_miniature_coco(tmp_path / "data" / "coco")
    env = {"U2S_DATA": "data"}

    described = run_script("generate_triplets", "dataset=coco", cwd=tmp_path, env=env)
    assert described.status == 0, described.said

    anonymized = run_script("anonymize", "dataset=coco", cwd=tmp_path, env=env)
    assert anonymized.status in (0, 3), anonymized.said
    assert "triplets=outputs/generate_triplets/coco-detectors-" in anonymized.stderr
    run = only(tmp_path / "outputs" / "anonymize")
    outcomes = read_records(run / "manifest.parquet", Outcome)
    assert {row.image_id for row in outcomes} == set(images)
    for row in outcomes:
        assert row.published_as in (None, row.image_id)  # a mirrored tree, same names
    with (run / "attribution.csv").open(newline="") as file:
        credited = {row["published_as"] for row in csv.DictReader(file)}
    assert credited == {row.published_as for row in outcomes if row.published_as}

    base = "editor.init_seed=0"  # random weights
    trained = run_script("train", "editor=tiny", base, "dataset=coco", cwd=tmp_path, env=env)
    assert trained.status == 0, trained.said
    assert "pairs=outputs/anonymize/coco-redact-" in trained.stderr
    run = only(tmp_path / "outputs" / "train")
    assert json.loads((run / "run.json").read_text())["status"] == "complete"
    assert (run / "adapter" / "pytorch_lora_weights.safetensors").is_file()
    assert (run / "metrics.csv").is_file()

    again = run_script("generate_triplets", "dataset=coco", cwd=tmp_path, env=env)
    assert again.status == 0
    assert "loaded model" not in again.said  # finished work is found, not repeated
    assert len(list((tmp_path / "outputs" / "generate_triplets").iterdir())) == 1
