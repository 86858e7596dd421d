"""The page of configuration keys is what the schema and the configs say."""

from conftest import REPOSITORY

from unsafe2safe.jobs.config_page import page


def test_the_page_is_current_and_every_key_has_a_meaning():
    text = page()
    assert (REPOSITORY / "docs" / "config.md").read_text("utf-8") == text, "run `make docs`"
    assert [line for line in text.splitlines() if line.endswith("|  |")] == []
