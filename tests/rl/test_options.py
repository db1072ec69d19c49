"""Options of an environment: read from text, and those given put over those there are."""

import pytest

from ratpg.cli.arguments import parse_train
from ratpg.rl.envs.options import BadOption, merge_options, parse_options


def test_values_are_json_or_words() -> None:
    read = parse_options(["levels=10", "mode=easy", "backgrounds=false", "rate=0.5", "text=a=b"])
    assert read == {"levels": 10, "mode": "easy", "backgrounds": False, "rate": 0.5, "text": "a=b"}


@pytest.mark.parametrize("options", [["levels"], ["=3"], ["levels="], ["levels=1", "levels=2"]])
def test_what_cannot_be_read_is_refused(options: list[str]) -> None:
    with pytest.raises(BadOption, match="name=value|twice"):
        parse_options(options)


def test_changes_replace_what_has_their_name_and_leave_the_rest() -> None:
    assert merge_options(("a=1", "b=2"), ("b=3", "c=4")) == ("a=1", "b=3", "c=4")
    assert merge_options(("a=1", "b=2"), ("a=1", "b=2")) == ("a=1", "b=2")
    assert merge_options(("a=1",), ()) == ("a=1",)


def test_a_presets_options_stay_unless_they_are_named() -> None:
    config = parse_train(
        "--env BigfishEasy-v0 --preset procgen --env-options use_backgrounds=false num_levels=3".split()
    )
    assert parse_options(config.env_options) == {"num_levels": 3, "start_level": 0, "use_backgrounds": False}
