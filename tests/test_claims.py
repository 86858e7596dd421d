"""The figures in the docs are those of the committed runs, and those runs are of this code."""

from __future__ import annotations

import json
import sys

import pytest
from conftest import REPOSITORY

sys.path.append(str(REPOSITORY / "benchmarks"))

import claims
import claims_tables

COMMITTED = sorted(path.stem for path in claims_tables.RESULTS.glob("*.json"))


def test_results_are_of_claims_that_are_still_made() -> None:
    assert set(COMMITTED) <= set(claims.CLAIMS)
    assert "base" in COMMITTED


@pytest.mark.parametrize("name", COMMITTED)
def test_no_source_of_a_claim_has_changed_since(name: str) -> None:
    result = json.loads((claims_tables.RESULTS / f"{name}.json").read_text())
    assert result["sources"] == claims.digest(claims.CLAIMS[name].sources), (
        f"what docs/claims/{name}.json rests on has changed: run `make claims` and commit it"
    )


@pytest.mark.parametrize("name", COMMITTED)
def test_the_verdicts_follow_from_the_figures(name: str) -> None:
    result = json.loads((claims_tables.RESULTS / f"{name}.json").read_text())
    told = [(bar["what"], bar["value"], bar["met"]) for bar in result["bars"]]
    bars = claims.CLAIMS[name].bars(result["measured"])
    assert told == [(bar.what, bar.value, bar.met) for bar in bars]


@pytest.mark.parametrize("path", claims_tables.PAGES, ids=lambda path: path.name)
def test_the_pages_show_the_committed_figures(path) -> None:
    page = path.read_text()
    assert claims_tables.with_tables(page) == page
    assert "<!-- base -->\n|" in page


def test_a_digest_follows_content_and_name(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(claims, "REPOSITORY", tmp_path)
    (tmp_path / "a.py").write_text("1")
    first = claims.digest(["*.py"])
    (tmp_path / "a.py").write_text("2")
    second = claims.digest(["*.py"])
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({first, second, claims.digest(["*.py"])}) == 3
