# SPDX-License-Identifier: Apache-2.0
"""`l7d`: which configuration file counts."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from l7agent.main import main


def config(folder: Path, name: str) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(f"state: /{name}\n")
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["agent"], "/environment"),
        (["--config", "{before}", "agent"], "/before"),
        (["agent", "--config", "{behind}"], "/behind"),
        (["--config", "{before}", "agent", "--config", "{behind}"], "/behind"),
    ],
)
def test_what_is_said_on_the_command_line_counts_before_the_environment(
    tmp_path: Path, arguments: list[str], expected: str
) -> None:
    paths = {name: config(tmp_path, name) for name in ("environment", "before", "behind")}
    words = [word.format(**paths) for word in arguments]
    result = CliRunner(env={"L7_CONFIG": paths["environment"]}).invoke(main, [*words, "--print-config"])
    assert result.exit_code == 0, result.output
    assert f"state: {expected}\n" in result.output
