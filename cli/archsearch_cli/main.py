"""The command line. Only declares commands; each imports what it needs when it runs, so that --help is fast."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from archsearch import __version__
from archsearch.errors import ArchsearchError, UserError
from archsearch_cli.output import Format, note

EXIT_DONE, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="archsearch",
    help="Neural architecture search: on this machine, or the same file on Kubernetes.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
P = ParamSpec("P")

Output = Annotated[Format, typer.Option("--output", "-o", help="Form of the result on stdout.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override a field, for example spec.seed=3.")
]
RunPlace = Annotated[str, typer.Argument(metavar="DIR|URI", help="A run's folder, or its s3:// URI.")]
Endpoint = Annotated[str, typer.Option(help="URL of an S3-compatible server, for an s3:// URI.")]


def _command(function: Callable[P, int]) -> Callable[P, None]:
    """Turns the code that a command returns, and the errors that a user can act on, into the exit code."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = function(*args, **kwargs)
        except KeyboardInterrupt:
            note("interrupted")
            code = EXIT_INTERRUPTED
        except UserError as error:
            note(f"error: {error}")
            code = EXIT_BAD_INPUT
        except ArchsearchError as error:
            note(f"error: {error}")
            code = EXIT_FAILED
        except BrokenPipeError:
            # The reader of stdout has gone; the interpreter must not complain when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = EXIT_FAILED
        raise typer.Exit(code)

    guarded.__annotations__ = {**function.__annotations__, "return": None}
    return guarded


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"archsearch {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options before the command."""


@app.command()
@_command
def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A manifest.")],
    storage: Annotated[
        str,
        typer.Option(metavar="URI", help="The run's folder: a path or s3://bucket/prefix. [./archsearch-runs/NAME]"),
    ] = "",
    overrides: Overrides = None,
    output: Output = Format.TABLE,
) -> int:
    """Run an experiment on this machine. The same command again resumes it."""
    from archsearch_cli.run import run_file

    return run_file(file, storage, overrides or (), output)


@app.command()
@_command
def validate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A manifest.")],
    live: Annotated[
        bool, typer.Option("--live", help="Also try bucket and keys, and ask the cluster (server-side dry run).")
    ] = False,
    overrides: Overrides = None,
    output: Output = Format.TABLE,
) -> int:
    """Say everything that is wrong with a manifest; your code and data are looked at by `run` before its first trial.

    Exits with 2 when something is wrong.
    """
    from archsearch_cli.validate import validate_file

    return validate_file(file, overrides or (), live=live, output=output)


@app.command()
@_command
def space(
    target: Annotated[
        str | None,
        typer.Argument(metavar="[TARGET]", help="A manifest, a zoo name or module:Class; none: list the zoo."),
    ] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option("--arg", metavar="NAME=VALUE", help="An argument of the space, for example channels=8."),
    ] = None,
    nni: Annotated[bool, typer.Option("--nni", help="Write NNI's search-space JSON.")] = False,
    size: Annotated[bool, typer.Option("--size", help="Write the number of architectures only.")] = False,
    output: Output = Format.TABLE,
) -> int:
    """Show a search space as a tree, JSON (-o json) or NNI's JSON. Runs the model's own code."""
    from archsearch_cli.space import show_space

    return show_space(target, arg or (), nni=nni, size=size, output=output)


@app.command()
@_command
def strategies(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this one.")] = None,
    output: Output = Format.TABLE,
) -> int:
    """List strategies with their options, defaults and bounds."""
    from archsearch_cli.strategies import show_strategies

    return show_strategies(name, output)


@app.command()
@_command
def trials(place: RunPlace, endpoint: Endpoint = "", output: Output = Format.TABLE) -> int:
    """List the trials of a run."""
    from archsearch_cli.results import show_trials

    return show_trials(place, endpoint, output)


@app.command()
@_command
def best(
    place: RunPlace,
    top: Annotated[int, typer.Option(min=1, help="How many.")] = 5,
    endpoint: Endpoint = "",
    output: Output = Format.TABLE,
) -> int:
    """List the best trials of a run, best first; with several objectives those that no other beats."""
    from archsearch_cli.results import show_best

    return show_best(place, endpoint, top, output)


@app.command()
@_command
def export(
    place: RunPlace,
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the model is written: new, or empty.")],
    number: Annotated[int | None, typer.Option(help="A trial; default: the best whose weights were kept.")] = None,
    formats: Annotated[list[str] | None, typer.Option("--format", help="Further formats: onnx.")] = None,
    code: Annotated[Path, typer.Option(help="Folder of the search space's own modules.")] = Path(),
    endpoint: Endpoint = "",
    output: Output = Format.TABLE,
) -> int:
    """Write a trial's trained network as safetensors, architecture, torch.export program (and ONNX) to a folder."""
    from archsearch_cli.export import export_model

    return export_model(
        place, target, number=number, formats=formats or [], code=code.resolve(), endpoint=endpoint, output=output
    )


@app.command()
@_command
def table(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="nas-bench-graph, a package of that name.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which of its tables: cora, citeseer, pubmed, ….")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The npz to write.")],
) -> int:
    """Write a published benchmark as a table for `archsearch bench` and the evaluator tabular."""
    from archsearch_cli.bench import export_table

    return export_table(source, name, out)


@app.command()
@_command
def bench(
    table: Annotated[Path, typer.Option(metavar="FILE", help="An npz of measured architectures.")],
    metric: Annotated[str, typer.Option(metavar="COLUMN", help="What the strategies search for.")],
    strategies: Annotated[str, typer.Option(metavar="A,B,…", help="Names of strategies.")],
    test_metric: Annotated[str, typer.Option(metavar="COLUMN", help="Told of the chosen row, shown to none.")] = "",
    cost: Annotated[str, typer.Option(metavar="COLUMN[*FACTOR]", help="Seconds of a query. [1 each]")] = "",
    queries: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Distinct rows that a run may see.")] = None,
    cost_budget: Annotated[float | None, typer.Option(metavar="S", help="Simulated seconds of a run.")] = None,
    seeds: Annotated[int, typer.Option(min=1, max=100_000, help="Runs of each strategy.")] = 10,
    config: Annotated[
        list[str] | None, typer.Option(metavar="NAME.KEY=VALUE", help="An option of a strategy; may be repeated.")
    ] = None,
    space: Annotated[str, typer.Option(metavar="ZOO", help="Zoo space of a table without candidates.")] = "",
    fidelity: Annotated[
        list[str] | None, typer.Option(metavar="NAME=COLUMN:COST", help="A cheaper training, cheapest first.")
    ] = None,
    continued: Annotated[
        bool, typer.Option("--continued", help="Fidelities are points of one training: a promotion costs the rest.")
    ] = False,
    minimize: Annotated[bool, typer.Option("--minimize", help="Smaller is better.")] = False,
    proxies: Annotated[Path | None, typer.Option(metavar="FILE", help="An npz of zero-cost proxies.")] = None,
    parallel: Annotated[int, typer.Option(min=1, max=100_000, help="Trials at one time.")] = 1,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes. [the cores of this machine]")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write regret curves there: CSV and PNG.")] = None,
    output: Output = Format.TABLE,
) -> int:
    """Compare strategies on a table, over many seeds, in simulated time."""
    from archsearch_cli.bench import bench_of, cores, run_bench

    wanted = bench_of(
        table,
        metric=metric,
        test_metric=test_metric,
        cost=cost,
        space=space,
        fidelities=fidelity or (),
        continued=continued,
        minimize=minimize,
        queries=queries,
        cost_budget=cost_budget,
        parallel=parallel,
        proxies=proxies,
    )
    names = [name.strip() for name in strategies.split(",") if name.strip()]
    return run_bench(wanted, names, config or (), seeds=seeds, jobs=jobs or cores(), output=output, folder=out)


def main() -> None:
    """Entry point of `archsearch` and `kubectl-archsearch`."""
    app()


if __name__ == "__main__":
    main()
