"""`acequia config show`."""

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from acequia_cli.commands import Output
from acequia_cli.complaints import DONE, WRONG_USE
from acequia_cli.profiles import entries


@dataclass(frozen=True, slots=True)
class ShowProfile:
    """What an environment says, for people: no secret is printed."""

    name: str
    config: Path | None = None

    async def run(self, output: Output) -> int:
        file, told = entries(self.name, self.config)
        settings = [{"key": e.key, "value": e.shown or None, "origin": e.origin, "problem": e.problem} for e in told]
        output.document({"file": str(file), "environment": self.name, "settings": settings})
        if not output.as_json:
            table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
            for entry in told:
                shown = Text(entry.problem, "red") if entry.problem else Text(entry.shown)
                table.add_row(entry.key, shown, Text(entry.origin, "dim"))
            output.remark(f"{file}, [env.{self.name}]")
            output.console.print(table)
        return WRONG_USE if any(entry.problem for entry in told) else DONE
