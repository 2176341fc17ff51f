"""`trace`: what a request did, across all services."""

import re
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.markup import escape
from rich.tree import Tree

from almagest_cli import output, traces
from almagest_cli.output import CommandError, Json, out
from almagest_cli.settings import places

_SHOWN_ATTRIBUTES = (
    "http.response.status_code",
    "rpc.grpc.status_code",
    "db.operation.name",
    "batch.size",
    "error.type",
)
_HINT = "Traces are kept while no OTEL_EXPORTER_OTLP_ENDPOINT is set; with it, look in Jaeger."


def trace(
    *,
    trace_id: Annotated[
        str | None, typer.Argument(help="The trace, as in the Trace-Id header, or how it begins.", show_default=False)
    ] = None,
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="Without an id: how many of the latest.")] = 1,
    file: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write Jaeger's JSON to this file, for its UI to open.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the last traces, or one of them, as trees across the services.

    Work that a request caused later, such as the projection of its events, stands under the span that caused it.
    """
    kept = traces.read(places().traces)
    if trace_id is None:
        chosen = kept.last(last)
        if not chosen:
            raise CommandError(f"No traces are kept in {places().traces}.", hint=_HINT)
    else:
        chosen = kept.find(trace_id)
        if not chosen:
            raise CommandError(f"There is no trace {trace_id}.", hint=f"It may be too old. {_HINT}")
        if len(chosen) > 1:
            raise CommandError(f"{len(chosen)} traces begin with {trace_id}.", hint="Give more of its digits.")
    everything = list(dict.fromkeys(one for trace in chosen for one in kept.related(trace)))
    if file is not None:
        try:
            file.write_bytes(orjson.dumps(kept.jaeger(everything), option=orjson.OPT_INDENT_2))
        except OSError as error:
            raise CommandError(f"{file} cannot be written: {error.strerror}") from None
        output.note(f"{len(everything)} traces are in {file}. Open it in Jaeger: Search, Upload.")
        return
    if as_json:
        output.print_json(kept.jaeger(everything))
        return
    for one in reversed(chosen):
        roots = kept.tree(one)
        begin = min(node.span.start_ns for node in roots)
        tree = Tree(f"[bold]trace {one}[/]")
        for node in roots:
            _grow(tree, node, begin=begin)
        out.print(tree)


def _grow(tree: Tree, node: traces.Node, *, begin: int) -> None:
    span = node.span
    shown: list[Any] = [
        f"{name.rpartition('.')[2]}={span.attributes[name]}" for name in _SHOWN_ATTRIBUTES if name in span.attributes
    ]
    style = "red" if span.failed else "default"
    # The package of an RPC says nothing that the service does not.
    name = re.sub(r"^(?:[a-z0-9_]+\.)+(?=[A-Z])", "", span.name)
    label = f"[cyan]{span.service}[/] [{style}]{escape(name)}[/] [bold]{output.duration(span.seconds)}[/]"
    label += f" [dim]+{output.duration((span.start_ns - begin) / 1e9)} {escape(' '.join(shown))}[/]"
    if node.linked:
        label = f"[magenta]later, trace {span.trace_id[:8]}:[/] {label}"
    if span.failed and span.status_message:
        label += f" [red]{escape(span.status_message)}[/]"
    branch = tree.add(label)
    for child in node.children:
        _grow(branch, child, begin=begin)
