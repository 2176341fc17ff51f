"""What the command can do, and that it is the same whether all of it is loaded or only what was asked for."""

from typing import Any

import pytest
import typer
from almagest_cli.__main__ import application

WHOLE: Any = typer.main.get_command(application())


def told(command: Any) -> Any:
    """What can be said to a command: of a group, by command."""
    if hasattr(command, "commands"):
        return {name: told(one) for name, one in command.commands.items()}
    return [(one.name, one.opts, one.required) for one in command.params]


@pytest.mark.parametrize("name", WHOLE.commands)
def test_a_command_is_the_same_alone(name: str) -> None:
    alone: Any = typer.main.get_command(application([name, "--json"]))
    assert list(alone.commands) == [name]
    assert told(alone.commands[name]) == told(WHOLE.commands[name])


@pytest.mark.parametrize("arguments", [[], ["--help"], ["nonsense"], ["--show-completion"]])
def test_whoever_names_no_command_hears_of_all(arguments: list[str]) -> None:
    assert list(typer.main.get_command(application(arguments)).commands) == list(WHOLE.commands)
