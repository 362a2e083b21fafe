"""What the verbs share: their options, the connection to the hub, and how data is printed; no verb lives here."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from fedgpu_operator.adapters.kube.client import KubeClient
    from fedgpu_operator.api.base import JSONObject
    from fedgpu_operator.api.gpuprovider import GPUProvider

T = TypeVar("T")


class Output(StrEnum):
    """How to print."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print: table, json or yaml.")]
ContextOption = Annotated[str | None, typer.Option("--context", help="Context of your kubeconfig; its current one.")]
NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace; that of your context, else default.")
]
AllOption = Annotated[bool, typer.Option("--all-namespaces", "-A", help="All namespaces.")]


def with_hub(work: Callable[[KubeClient], Awaitable[T]], context: str | None) -> T:
    """Connect with the user's own kubeconfig, do the work, disconnect. Raises the KubeError tree."""

    async def connected() -> T:
        from fedgpu_operator.adapters.kube.connect import connect

        hub = await connect(context)
        try:
            return await work(hub)
        finally:
            await hub.close()

    return asyncio.run(connected())


def show_noted(
    name: str,
    note: str,
    *,
    confirm: bool,
    withdraw: bool,
    confirmed: Callable[[GPUProvider], str],
    withdrawn: str | None,
    described: Callable[[GPUProvider], str],
    context: str | None,
) -> None:
    """Print a GPUProvider as `described`, after its annotation `note` was set if that is asked for.

    To `confirm` sets it to `confirmed` of the provider, to `withdraw` sets it to `withdrawn`, None for no annotation.
    Raises ConfigurationError for both at once, and the KubeError tree.
    """
    from fedgpu_operator.domain.text import clean
    from fedgpu_operator.errors import ConfigurationError

    if confirm and withdraw:
        raise ConfigurationError("--confirm and --withdraw contradict each other")

    async def work(hub: KubeClient) -> GPUProvider:
        from fedgpu_operator.api.gpuprovider import GPUProvider
        from fedgpu_operator.ports import ResourceType

        kind = ResourceType.of(GPUProvider.info)
        provider = GPUProvider.parse(await hub.get(kind, name))
        if not confirm and not withdraw:
            return provider
        # Guarded: what is confirmed is what was read here, whatever its owner writes meanwhile.
        value = confirmed(provider) if confirm else withdrawn
        meta = {**provider.metadata.guard(), "annotations": {note: value}}
        return GPUProvider.parse(await hub.patch(kind, name, "", {"metadata": meta}))

    sys.stdout.write(clean(described(with_hub(work, context))))


def namespace_of(context: str | None, given: str | None) -> str:
    """The namespace asked for, else the one of the kubeconfig's context, else ``default``, as kubectl does.

    Raises ConfigurationError where the kubeconfig knows no such context.
    """
    if given:
        return given
    from kubernetes.aio import config
    from kubernetes.aio.config.config_exception import ConfigException

    from fedgpu_operator.errors import ConfigurationError

    try:
        contexts, current = config.list_kube_config_contexts(config_file=os.environ.get("KUBECONFIG"))
    except (ConfigException, OSError) as error:
        raise ConfigurationError(f"cannot load a kubeconfig: {error}; set KUBECONFIG") from error
    chosen = [each for each in contexts if each["name"] == context] if context else [current]
    if not chosen:
        raise ConfigurationError(f"your kubeconfig has no context {context!r}")
    return str(chosen[0]["context"].get("namespace") or "default")


def print_data(output: Output, document: JSONObject, tables: Callable[[], Sequence[Table | str]]) -> None:
    """Print the document as JSON or YAML, or the tables that show the same to people.

    No text in it can steer the terminal, whoever wrote it: data escapes what could, tables replace it.
    """
    if output is Output.JSON:
        sys.stdout.write(_harmless(lambda plain: json.dumps(document, indent=2, ensure_ascii=not plain)) + "\n")
    elif output is Output.YAML:
        import yaml

        sys.stdout.write(_harmless(lambda plain: yaml.safe_dump(document, sort_keys=False, allow_unicode=plain)))
    else:
        from rich.console import Console

        # Without a terminal, a width that wraps nothing: what is piped is meant to be cut and searched.
        console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=220)
        from fedgpu_operator.domain.text import clean

        for each in tables():
            console.print(clean(each) if isinstance(each, str) else each, markup=False)


def _harmless(dump: Callable[[bool], str]) -> str:
    """The data with its characters as they are, or escaped where one of them is not safe to print."""
    from fedgpu_operator.domain.text import is_clean

    text = dump(True)
    return text if is_clean(text) else dump(False)


def plain_table(*columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table in kubectl's manner: capitals, no lines; `right` names the columns of figures.

    It cleans the texts of its cells.
    """
    from rich.table import Table

    from fedgpu_operator.domain.text import clean

    class CleanTable(Table):
        def add_row(self, *cells: RenderableType | None, **how: Any) -> None:
            super().add_row(*(clean(each) if isinstance(each, str) else each for each in cells), **how)

    table = CleanTable(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=column in right)
    return table
