"""What each command does with its settings; heavy packages are imported only when it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glass.config import RunConfig

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from glass.pipeline import Run

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Command:
    """One command of `glass`."""

    summary: str
    """Shown by `glass --help`, and with the options by its own `--help`."""
    work: Callable[[RunConfig, Options], None]
    """Does it; ValueError and OSError are for the user."""
    add_options: Callable[[ArgumentParser], None] = lambda parser: None
    """Adds what is not a setting."""
    usage: str = ""
    """Its own options, for the usage line."""


def _run(config: RunConfig) -> Run:
    from glass.pipeline import Run

    return Run(config, progress=sys.stderr.isatty())


@contextmanager
def _working(config: RunConfig) -> Iterator[Run]:
    """A run whose folder is ours, and known to be writable before any work."""
    run = _run(config)
    with run.locked():
        run.start()
        yield run


def run(config: RunConfig, options: Options) -> None:
    """All steps."""
    _run(config).all()


def data_prepare(config: RunConfig, options: Options) -> None:
    """Prepares the data and names the folder."""
    from glass.data import prepare

    print(prepare(config.data, force=options["force"], ray=config.ray))


def data_describe(config: RunConfig, options: Options) -> None:
    """Prints the counts of the data set."""
    from glass.data import format_description

    print(format_description(_run(config).data_card))


def sid_build(config: RunConfig, options: Options) -> None:
    """Builds the semantic IDs and names the folder."""
    with _working(config) as run:
        table = run.build_sids()
    print(f"{run.folder / 'sid'}: {table.num_items:,} items, levels {list(table.codebook_sizes)}")


def sid_describe(config: RunConfig, options: Options) -> None:
    """Prints how well the semantic IDs are spread, and draws it."""
    from glass.sid import plot

    run = _run(config)
    if not run.has_sids():
        with _working(config) as run:
            run.build_sids()
    print(run.sid_health)
    print(f"\nPlot: {plot(run.sid_health, run.folder / 'sid_health.png')}")


def sid_compare(config: RunConfig, options: Options) -> None:
    """Prints how several quantisers do on the same item vectors."""
    from glass.evaluation import write_json_atomic
    from glass.sid import compare, format_comparison

    with _working(config) as run:
        folder = run.folder / "sid_compare"
        found = compare(config.sid, run.dataset, folder, options["quantizers"], config.ray)
        path = folder.with_suffix(".json")
        write_json_atomic(path, {name: health.to_dict() for name, health in found.items()})
    print(format_comparison(found))
    print(f"\nFigures: {path}")


def sid_tiers(config: RunConfig, options: Options) -> None:
    """Writes the SID-Tier counts of all samples and names the file."""
    from glass.pipeline.tier_features import write_tier_features

    with _working(config) as run:
        table = run.build_sids()
        path = run.folder / "tiers.parquet"
        features = write_tier_features(path, config.model, table, run.dataset)
    total = sum(features.num_samples.values())
    print(f"{path}: {total:,} samples, {features.num_codes} codes x {features.num_tiers} tiers")


def train(config: RunConfig, options: Options) -> None:
    """Trains the systems of the run, or the one that was asked for."""
    with _working(config) as run:
        chosen = [options["system"]] if options["system"] else run.neural_systems
        run.train(chosen)
    for system in chosen:
        print(run.folder / system)


def evaluate(config: RunConfig, options: Options) -> None:
    """Prints the metric table."""
    from glass.evaluation import format_table

    run = _run(config)
    with run.locked():
        metrics = run.evaluate()
    print(format_table(metrics))
    print(f"\nMetrics: {run.folder / 'metrics.json'}")


def compare(config: RunConfig, options: Options) -> None:
    """Prints finished runs side by side, and draws them."""
    from glass.cli_parser import make_parser, parse
    from glass.evaluation import write_json_atomic
    from glass.pipeline.compare import compare_runs
    from glass.report.comparison import format_comparison, plot_comparison

    others = [parse(make_parser("glass compare", ""), run, [])[0] for run in options["with"]]
    found = compare_runs([config, *others], options["metrics"])
    print(format_comparison(found))
    if options["to"]:
        path = Path(options["to"])
        write_json_atomic(path.with_suffix(".json"), asdict(found))
        print(f"\nPlot: {plot_comparison(found, path.with_suffix('.png'))}")
        print(f"Figures: {path.with_suffix('.json')}")


def report(config: RunConfig, options: Options) -> None:
    """Writes the report of an evaluated run."""
    print(_run(config).report())


def recommend(config: RunConfig, options: Options) -> None:
    """Prints items for users, as a table or as JSON."""
    from glass.pipeline import recommend as recommend_items

    if not options["users"]:
        raise ValueError(
            "`glass recommend` needs --users and raw user ids, such as --users 900 1228"
        )
    found = recommend_items(
        _run(config),
        options["users"],
        num_items=options["num_items"],
        system=options["system"],
        exclude_seen=options["exclude_seen"],
        allowed=_listed("allow", options),
        exclude=_listed("exclude", options),
        max_per_sid1=options["max_per_sid1"],
    )
    if options["json"]:
        rows = {user: [asdict(item) for item in items] for user, items in found.items()}
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    for user, items in found.items():
        print(f"User {user}" + ("" if items else ": nothing to recommend"))
        for item in items:
            sid = "-".join(str(code) for code in item.sid)
            mark = "repeat" if item.repeat else ""
            title = " ".join(item.title.split())
            line = f"{item.rank:>4}  {item.raw_item_id:<10} {title:<50} {sid:<14} "
            print((line + f"{item.score:>8.3f}  {mark}").rstrip())


def _listed(name: str, options: Options) -> list[str] | None:
    """The lines of the file that an option names."""
    path = options[name]
    if path is None:
        return None
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"--{name} {path} cannot be read ({error}); it must be a text file with one raw item "
            "id a line"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def export(config: RunConfig, options: Options) -> None:
    """Compiles a trained system and names the folder."""
    from glass.export import export_model
    from glass.serving.folder import check_candidates

    system = options["system"]
    run = _run(config)
    folder = options["to"] or run.folder / f"{system}_exported"
    check_candidates(run.folder / system, config.eval.candidates)
    print(
        export_model(
            run.folder / system,
            folder,
            max_batch=options["max_batch"],
            max_beams=options["max_beams"],
            device=options["device"],
        )
    )


def _force(parser: ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="prepare anew even if up to date")


def _quantizers(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--quantizers",
        type=str,
        nargs="+",
        default=["rkmeans", "vqvae", "rqvae"],
        help="values of sid.quantizer; rkmeans vqvae rqvae",
    )


def _system(parser: ArgumentParser) -> None:
    parser.add_argument("--system", type=str, help="train only this system of the run")


def _recommend(parser: ArgumentParser) -> None:
    parser.add_argument("--users", type=str, nargs="+", default=[], help="raw user ids")
    parser.add_argument("--num-items", type=int, default=10, help="items a user, at most")
    parser.add_argument("--system", type=str, help="a trained system; glass, or the run's last")
    parser.add_argument("--exclude-seen", action="store_true", help="no items of the history")
    parser.add_argument("--allow", type=str, metavar="FILE", help="these items alone: raw ids")
    parser.add_argument("--exclude", type=str, metavar="FILE", help="not these items: raw ids")
    parser.add_argument("--max-per-sid1", type=int, help="beams of one first code, at most")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _compare(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--with", type=str, nargs="+", default=[], help="further runs of the same data"
    )
    parser.add_argument(
        "--metrics", type=str, nargs="+", default=[], help="such as hit@10 ndcg@10 item_ndcg@10"
    )
    parser.add_argument("--to", type=str, metavar="FILE", help="write FILE.png and FILE.json too")


def _export(parser: ArgumentParser) -> None:
    parser.add_argument("--system", type=str, default="glass", help="glass or tiger")
    parser.add_argument("--to", type=str, default="", help="folder to write; SYSTEM_exported")
    parser.add_argument("--max-batch", type=int, default=256, help="users a call, at most")
    parser.add_argument("--max-beams", type=int, default=512, help="beams of a user, at most")
    parser.add_argument("--device", type=str, default="cpu", help="cpu; cuda was never tried")


COMMANDS: Mapping[str, Command] = {
    "run": Command("prepare, train, evaluate and report: every step below", run),
    "data prepare": Command("read, filter and split the data", data_prepare, _force, "[--force]"),
    "data describe": Command("counts of the data set", data_describe),
    "sid build": Command("item vectors and semantic IDs", sid_build),
    "sid describe": Command("usage, collisions and bucket sizes, and a plot", sid_describe),
    "sid compare": Command(
        "several quantisers on the same item vectors",
        sid_compare,
        _quantizers,
        "[--quantizers NAME [NAME ...]]",
    ),
    "sid tiers": Command("SID-Tier counts of every sample, as Parquet", sid_tiers),
    "train": Command("train the models of the run", train, _system, "[--system NAME]"),
    "evaluate": Command("rank the test split with every system", evaluate),
    "recommend": Command(
        "items for users, from their whole history",
        recommend,
        _recommend,
        "--users ID [ID ...] [--num-items N] [--system NAME] [--exclude-seen] "
        "[--allow FILE] [--exclude FILE] [--max-per-sid1 N] [--json]",
    ),
    "export": Command(
        "compile a trained model, to serve it without its Python code",
        export,
        _export,
        "[--system NAME] [--to FOLDER] [--max-batch N] [--max-beams N] [--device NAME]",
    ),
    "compare": Command(
        "finished runs side by side; runs that differ in train.seed alone are averaged",
        compare,
        _compare,
        "[--with RUN [RUN ...]] [--metrics NAME [NAME ...]] [--to FILE]",
    ),
    "report": Command("write report.html of an evaluated run", report),
}
