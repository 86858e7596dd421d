"""`generate_triplets.py stage1=server` as a user runs it, against real servers on loopback."""

import pytest
from backends import tiny_models
from backends.servers import transformers_serve
from conftest import run_script

from unsafe2safe.core.records import PrivacyFlag, Triplet, TripletState
from unsafe2safe.core.tables import read_parts


@pytest.mark.slow
def test_a_server_that_ignores_the_schema_leaves_every_row_to_review_and_none_safe(tmp_path):
    folder = tiny_models.build("qwen3_vl", tmp_path / "vlm")
    with transformers_serve(folder) as server:
        finished = run_script(
            "generate_triplets",
            "stage1=server",
            f"stage1.vlm.base_url={server.base_url}",
            f"stage1.vlm.model={server.model}",
            "stage1.vlm.image_long_side=64",
            f"stage1.llm.base_url={server.base_url}",
            f"stage1.llm.model={server.model}",
            "stage1.caption_tokens=64",
            f"output_dir={tmp_path / 'run'}",
            cwd=tmp_path,
        )
    assert finished.status == 3, finished.said
    assert "Traceback" not in finished.said
    rows = list(read_parts(tmp_path / "run" / "triplets", Triplet))
    assert len(rows) == 11
    assert {row.state for row in rows} == {TripletState.NEEDS_REVIEW}
    assert {row.privacy_flag for row in rows} == {PrivacyFlag.UNSAFE}
    assert not any(row.public_caption or row.edit_instruction for row in rows)


@pytest.mark.slow
def test_a_server_that_is_not_there_is_one_line(tmp_path):
    finished = run_script(
        "generate_triplets",
        "stage1=server",
        "stage1.vlm.base_url=http://127.0.0.1:9/v1",
        "stage1.vlm.model=absent",
        "stage1.vlm.max_retries=0",
        "stage1.llm.base_url=http://127.0.0.1:9/v1",
        "stage1.llm.model=absent",
        "dataset.limit=1",
        cwd=tmp_path,
    )
    assert finished.status == 2, finished.said
    assert "127.0.0.1:9" in finished.stderr
    assert "Traceback" not in finished.said
