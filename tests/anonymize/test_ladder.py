"""The ladder as configured: order, what is left out, and mistakes that are told at once."""

import logging

import pytest
from injected_editors import Identity

from unsafe2safe.anonymize.ladder import build_ladder
from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import compose_choice, load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.base import Editor
from unsafe2safe.editors.redact import RedactEditor


def ladder(*overrides, editor=None):
    config = load("anonymize", list(overrides))
    return build_ladder(config, editor or build(config.editor, "editor", Editor))


def rungs(*overrides, editor=None):
    return [step.rung for step in ladder(*overrides, editor=editor).steps]


def test_the_default_ladder_of_a_generative_editor_ends_with_redaction():
    found = ladder(editor=Identity())
    assert [step.rung for step in found.steps] == [
        "first", "seed", "guidance", "margin", "redact", "margin", "margin",
    ]  # fmt: skip
    assert [step.editor.name for step in found.steps] == ["identity"] * 4 + ["redact"] * 3
    assert [step.draw for step in found.steps] == [0, 1, 1, 1, 1, 1, 1]
    assert [step.text_guidance for step in found.steps] == [1, 1, 1.5, 1.5, 1, 1, 1]
    assert [step.margin for step in found.steps] == pytest.approx(
        [0.3, 0.3, 0.3, 0.45, 0.45, 0.6, 0.75]
    )
    assert [step.strength for step in found.steps] == [0, 1, 2, 3, 0, 1, 2]


def test_a_redaction_climbs_by_margins_alone():
    assert rungs() == ["first", "margin", "margin", "margin"]
    assert [step.strength for step in ladder().steps] == [0, 1, 2, 3]
    assert rungs("margin=0") == ["first", "margin", "margin", "margin"]  # it still grows stronger


def test_without_redaction_the_ladder_ends_before_it():
    assert rungs("verify.redact=false", editor=Identity()) == [
        "first",
        "seed",
        "guidance",
        "margin",
    ]
    assert len(rungs("verify.redact=false")) == 4


def test_a_rung_changes_several_things_at_once_and_by_its_own_numbers():
    found = ladder("verify.ladder=[{seed:true,margin:1.0},{guidance:2}]", editor=Identity()).steps
    assert [step.rung for step in found] == ["first", "seed+margin", "guidance"]
    assert (found[1].draw, found[1].margin, found[2].text_guidance) == (1, 0.6, 3.0)


def test_what_cannot_change_anything_is_left_out():
    assert rungs("verify.ladder=[margin,seed]", "margin=0", editor=Identity()) == ["first", "seed"]
    assert rungs("editor=freeprompt", "verify.ladder=[seed,guidance]") == ["first", "guidance"]


def test_another_editor_is_composed_with_its_own_settings_and_its_licence_is_said(caplog):
    with caplog.at_level(logging.INFO, logger="unsafe2safe"):
        found = ladder(
            "verify.ladder=[seed,{editor:flowedit,overrides:{steps:7,n_max:3}},margin]",
            editor=Identity(),
        )
        found.tell_licences()
    step = found.steps[2]
    assert step.rung == "editor=flowedit"
    assert (step.editor.name, step.editor.steps, step.draw, step.strength) == ("flowedit", 7, 1, 0)
    assert "licence Stability AI Community License" in caplog.text
    assert [editor.name for editor in found.editors] == ["identity", "flowedit"]
    assert found.content  # its settings are part of the run's fingerprint
    other = ladder("verify.ladder=[seed,{editor:flowedit,overrides:{steps:8,n_max:3}},margin]")
    assert set(found.content.values()) != set(other.content.values())


def test_the_scripts_own_composition_is_left_as_it_was():
    from hydra.core.global_hydra import GlobalHydra

    before = GlobalHydra.instance().hydra
    compose_choice("editor", "redact")
    assert GlobalHydra.instance().hydra is before


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("[{editor:redakt}]", r"verify\.ladder\.0: editor=redakt does not exist; did you mean"),
        ("[seed,{editor:tiny,overrides:{stepps:3}}]", r"verify\.ladder\.1: .*stepps"),
        ("[{editor:tiny,overrides:{steps:0}}]", r"verify\.ladder\.0: editor\.steps=0"),
        ("[{editor:tiny,adapter:nowhere}]", r"verify\.ladder\.0: adapter=nowhere is no run folder"),
        ("[{editor:external}]", r"verify\.ladder\.0: .*command is not set"),
        ("[sed]", r"verify\.ladder.*'sed' is no rung.*did you mean 'seed'"),
        ("[{}]", "changes nothing"),
        ("[{redact:true,editor:tiny}]", "not to both"),
        ("[{seed:true,adapter:x}]", "belong to a rung's editor"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(written, told):
    with pytest.raises(UsageError, match=told) as caught:
        ladder(f"verify.ladder={written}")
    assert "\n" not in str(caught.value)


def test_redaction_is_what_the_rung_says():
    step = ladder("verify.ladder=[redact]", editor=Identity()).steps[1]
    assert isinstance(step.editor, RedactEditor)
