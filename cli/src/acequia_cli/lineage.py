"""A lineage as a tree that reads from the sources to what became of them."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

SIBLINGS_MOST = 12
"""Branches of one node, or sources, that are drawn; the others are counted."""
WRAPPED = 100
"""Columns after which parameters and metrics go on in the next line."""
UNBOUND = 2000
SECONDARY = (".skops", ".html")
"""Files beside a commit object: what they come from is said there."""


def lineage_tree(
    lineage: Mapping[str, Any], paths: Mapping[str, str] | None = None, *, only_run: str | None = None
) -> Tree:
    """LANDING -> RAW -> SILVER -> model -> evaluation. Where the trace began is bold; what recurs is drawn once.

    An edge that skips over a step (data -> evaluation, beside data -> model -> evaluation) is not drawn.
    `only_run`: of the sources, those of that run are drawn and the others counted.
    """
    drawing = _Drawing(lineage, paths or {})
    tree = Tree("", hide_root=True, guide_style="dim")
    roots = drawing.roots()
    own = [uri for uri in roots if drawing.leads_to(uri, only_run)] if only_run else roots
    drawing.add(tree, own or roots)
    if own and (others := len(roots) - len(own)):
        tree.add(Text(f"and {others:,} earlier sources that the training read again: acequia trace {lineage['node']}"))
    return tree


def print_lineage(
    console: Console,
    lineage: Mapping[str, Any],
    paths: Mapping[str, str] | None = None,
    *,
    only_run: str | None = None,
) -> None:
    """As `lineage_tree`. No line is cut at the terminal's edge: a uri can be copied whole."""
    wide = Console(
        file=console.file, width=UNBOUND, force_terminal=console.is_terminal, no_color=console.no_color, highlight=False
    )
    wide.print(lineage_tree(lineage, paths, only_run=only_run))


class _Drawing:
    def __init__(self, lineage: Mapping[str, Any], paths: Mapping[str, str]) -> None:
        self.nodes: dict[str, Mapping[str, Any]] = {node["uri"]: node for node in lineage["nodes"]}
        self.paths = paths
        self.drawn: set[str] = set()
        self.known: dict[str, set[str]] = {}
        self.inputs: dict[str, set[str]] = {uri: set() for uri in self.nodes}
        for edge in lineage["edges"]:
            if edge["input"] in self.nodes and edge["output"] in self.nodes and edge["input"] != edge["output"]:
                self.inputs[edge["output"]].add(edge["input"])
        self.outputs: dict[str, list[str]] = {uri: [] for uri in self.nodes}
        for output, inputs in self.inputs.items():
            # an input that another input was made from is drawn above that one
            further = set().union(*(self._before(uri) for uri in inputs))
            for uri in inputs - further:
                self.outputs[uri].append(output)

    def _before(self, uri: str) -> set[str]:
        """Everything that the object was made from, at any distance."""
        if uri not in self.known:
            self.known[uri] = found = set()
            waiting = list(self.inputs[uri])
            while waiting:
                if (one := waiting.pop()) not in found:
                    found.add(one)
                    waiting += self.inputs[one]
        return self.known[uri]

    def leads_to(self, uri: str, run_id: str) -> bool:
        """Whether the source, or what was made from it, is of that run."""
        return any(
            node.get("run_id") == run_id and (other == uri or uri in self._before(other))
            for other, node in self.nodes.items()
        )

    def roots(self) -> list[str]:
        """Sources, those that what was asked for comes from first."""
        roots = [uri for uri, inputs in self.inputs.items() if not inputs] or list(self.nodes)
        return sorted(roots, key=lambda uri: (self.nodes[uri]["depth"] > 0, self._created(uri), uri))

    def _created(self, uri: str) -> str:
        return str(self.nodes[uri].get("created") or "")

    def add(self, parent: Tree, uris: Iterable[str]) -> None:
        ordered: Sequence[str] = list(uris)
        for uri in ordered[:SIBLINGS_MOST]:
            if uri in self.drawn:
                parent.add(Text(f"{_layer(self.nodes[uri])} {_short(uri)} (see above)", "dim"))
                continue
            self.drawn.add(uri)
            branch = parent.add(self._label(uri))
            self.add(branch, sorted(self.outputs[uri], key=lambda u: (u.endswith(SECONDARY), self._created(u), u)))
        if len(ordered) > SIBLINGS_MOST:
            parent.add(Text(f"and {len(ordered) - SIBLINGS_MOST:,} more (--json lists all)", "dim"))

    def _label(self, uri: str) -> Text:
        node = self.nodes[uri]
        label = Text()
        label.append(f"{_layer(node)} ", "cyan")
        label.append(uri, "bold" if node["depth"] == 0 else "")
        label.append("  <- asked for" if node["depth"] == 0 else "", "bold")
        if node.get("stage") and not uri.endswith(SECONDARY):
            rows = f", {node['rows']:,} rows" if node.get("rows") else ""
            label.append(
                f"\n{node['stage']} {_variant(node)}{rows}, {_when(node['created'])}, run {node['run_id']}", "dim"
            )
            if text := _pairs(node.get("parameters")):
                label.append(_wrapped(f"parameters: {text}"), "dim")
            if text := _pairs(node.get("metrics")):
                label.append(_wrapped(f"metrics: {text}"))
        if path := self.paths.get(uri):
            label.append(f"\n{path}", "dim")
        return label


def _wrapped(text: str) -> str:
    lines = textwrap.wrap(text, WRAPPED, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "".join(f"\n{line}" for line in lines)


def _layer(node: Mapping[str, Any]) -> str:
    return str(node.get("layer") or "source").upper()


def _variant(node: Mapping[str, Any]) -> str:
    return str(node.get("variant") or "")


def _short(uri: str) -> str:
    return "/".join(uri.rsplit("/", 2)[-2:])


def _when(created: str | None) -> str:
    return f"{datetime.fromisoformat(created):%Y-%m-%d %H:%M:%S} UTC" if created else "time not known"


def _pairs(values: Mapping[str, Any] | None) -> str:
    """`a=1, b=2`; what is nested is written flat."""
    flat: list[str] = []
    for name, value in (values or {}).items():
        if isinstance(value, Mapping):
            flat += [f"{name}.{inner}={_value(content)}" for inner, content in value.items()]
        else:
            flat.append(f"{name}={_value(value)}")
    return ", ".join(flat)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:.4g}"
    return str(value)
