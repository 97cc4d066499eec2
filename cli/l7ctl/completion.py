# SPDX-License-Identifier: Apache-2.0
"""`l7ctl completion`: the script that makes a shell complete l7ctl's commands and options."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      eval "$(l7ctl completion bash)"
      l7ctl completion zsh > ~/.zfunc/_l7ctl
      l7ctl completion fish > ~/.config/fish/completions/l7ctl.fish
    """
    complete = get_completion_class(shell)
    assert complete is not None, shell  # noqa: S101 - the choices above are click's own
    click.echo(complete(context.find_root().command, {}, "l7ctl", "_L7CTL_COMPLETE").source())
