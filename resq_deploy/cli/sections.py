"""A command whose help lists its options under headings."""

from collections.abc import Mapping, Sequence
from typing import Any

import click


class SectionedCommand(click.Command):
    """A command with many options.

    Args:
        sections: headings, each with the names of its parameters in the order they are listed; what none names comes
            last.
        values: what `click.Command` takes.
    """

    def __init__(self, *values: Any, sections: Mapping[str, Sequence[str]], **named: Any) -> None:
        super().__init__(*values, **named)
        self._sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        records = {param.name: record for param in options if (record := param.get_help_record(ctx))}
        for title, names in self._sections.items():
            with formatter.section(title):
                formatter.write_dl([records.pop(name) for name in names])
        with formatter.section("Other options"):
            formatter.write_dl(list(records.values()))
