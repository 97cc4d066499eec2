# SPDX-License-Identifier: Apache-2.0
"""Session: what the global options say, and what follows from them when a command needs it.

The configuration is read only by commands that need it: `l7ctl rules check FILE` works on a machine without one.
"""

from functools import cached_property
from pathlib import Path

import click

from l7agent import config
from l7agent.config import Config
from l7ctl.client import Client
from l7ctl.errors import ExitCode, Failure


class Session:
    """One run of l7ctl."""

    def __init__(self, config_path: Path | None, socket_path: Path | None, timeout: float) -> None:
        self._config_path = config_path
        self._socket_path = socket_path
        self._timeout = timeout

    @cached_property
    def config(self) -> Config:
        """The daemon's configuration file."""
        try:
            return config.load(self._config_path)
        except config.ConfigError as error:
            raise Failure(str(error), "`--socket PATH` works without a configuration", code=ExitCode.USAGE) from error

    @property
    def named(self) -> bool:
        """Whether a configuration was named, and not only looked for."""
        return self._config_path is not None

    @cached_property
    def client(self) -> Client:
        """The agent's API."""
        return Client(self._socket_path or Path(self.config.api.socket), self._timeout)

    @property
    def audit_path(self) -> Path:
        """Where the daemon writes its audit log. A daemon named by its socket alone is asked."""
        if self._socket_path is not None and self._config_path is None:
            return Path(self.client.get("/status")["audit"]["path"])
        return Path(self.config.audit.path)


pass_session = click.make_pass_decorator(Session)
