# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/performance.md out of what the benchmarks wrote.

    python -m tests.bench.report bench-results [--into docs/performance.md]

Prints them, or puts each between its two marks in the page, ``<!-- bench NAME -->`` and ``<!-- end -->``, so that
all figures there are of one run. What a run did not measure stays as it is.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hpcnet.cli.bench import headline
from tests.bench.verdict import HOST

Document = Mapping[str, Any]

_MARKED = re.compile(r"(<!-- bench ([a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    """Print the tables, or put them into the page."""
    parser = argparse.ArgumentParser(description="The tables of docs/performance.md, out of the benchmarks' JSON.")
    parser.add_argument("results", type=Path, help="the directory with the JSON of make bench")
    parser.add_argument("--into", type=Path, metavar="FILE", help="the page whose marked tables are replaced")
    arguments = parser.parse_args()
    tables = of_results(arguments.results)
    if arguments.into is None:
        for name, text in tables.items():
            print(f"<!-- bench {name} -->\n{text}<!-- end -->\n")
        return 0
    page = arguments.into.read_text(encoding="utf-8")
    arguments.into.write_text(filled(page, tables), encoding="utf-8")
    missing = sorted(set(_names(page)) - set(tables))
    if missing:
        print(f"bench: not measured, left as they are: {', '.join(missing)}", file=sys.stderr)
    return 0


def filled(page: str, tables: Mapping[str, str]) -> str:
    """The page with what was measured between its marks."""
    return _MARKED.sub(lambda found: found[1] + tables.get(found[2], _inner(found)) + found[3], page)


def _inner(found: re.Match[str]) -> str:
    return found[0][len(found[1]) : -len(found[3])]


def _names(page: str) -> list[str]:
    return [found[2] for found in _MARKED.finditer(page)]


def of_results(directory: Path) -> dict[str, str]:
    """By name, each table that the directory's files have the figures of."""
    tables: dict[str, str] = {}
    for file, render in _RENDERERS.items():
        path = directory / f"{file}.json"
        if path.exists():
            tables.update(render(json.loads(path.read_text(encoding="utf-8"))))
    return tables


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _of_table(document: Document) -> dict[str, str]:
    tables = {}
    for mtu, states in document["fabrics"].items():
        for state, rows in states.items():
            tables[f"table-{mtu}-{state}"] = _ways(rows, document["study"] if state == "off" else {})
    aims = (
        [each["aim"], f"{each['least']:.2f}", *_ratio(each["ratio"]), each["verdict"]] for each in document["aims"]
    )
    tables["aims"] = _table(["with MTU 65520", "aim", "ratio", "quartiles", ""], aims)
    cells = document["comparisons"]
    behind = [each for each in cells if each["behind"]]
    rows_behind = (
        [f"{each['mtu']}, {each['offloads']}", each["way"], each["peer"], each["test"], *_ratio(each["ratio"])]
        for each in behind
    )
    text = _table(["MTU, offloads", "", "behind", "in", "ratio", "quartiles"], rows_behind) if behind else ""
    tables["behind"] = f"Behind in {len(behind)} of {len(cells)} cells.\n" + (f"\n{text}" if text else "")
    machine = document["machine"]
    before, after = document["load before"][0], machine["load"][0]
    tables["machine"] = (
        f"{machine['processor']}, {machine['processors']} processors, Linux {machine['kernel']}, "
        f"Python {machine['python']}; load {before} before the table, {after} after it.\n"
    )
    return tables


def _ways(rows: Document, study: Document) -> str:
    tests = list(next(iter(rows.values())))
    heads = ["Gbit/s", *tests, "processor, s a Gbit", *(["2016: there / back"] if study else [])]
    lines = []
    for name, row in rows.items():
        cells = [_cell(row[test], name == HOST) for test in tests]
        processor = next(row[test]["processor"]["median"] for test in reversed(tests) if "there" in row[test])
        known = "{} / {}".format(*study[name]) if name in study else ""
        lines.append([name, *cells, f"{processor:.3f}", *([known] if study else [])])
    return _table(heads, lines)


def _cell(found: Document, is_host: bool) -> str:
    """The median, and its ratio to the host's."""
    key = headline(found)
    text = f"{found[key]['median']:.1f}" if key != "kpackets" else f"{found[key]['median']:.0f}"
    if key == "median":
        return f"{text}, {found['p99']['median']:.0f} us"
    return text if is_host else f"{text} ({found['to host']['median']:.2f})"


def _ratio(found: Document) -> list[str]:
    return [f"{found['median']:.2f}", f"{found['low']:.2f} to {found['high']:.2f}"]


def _of_hooks(document: Document) -> dict[str, str]:
    lines = []
    for name, found in document["milliseconds"].items():
        wall = found["wall"]
        quartiles = f"{wall['low']:.1f} to {wall['high']:.1f}"
        lines.append([name, f"{wall['median']:.1f}", quartiles, f"{found['cpu']['median']:.1f}"])
    aims = (
        [each["aim"], f"{each['most ms']:.0f}", *_wall(each["wall"]), each["verdict"]] for each in document["aims"]
    )
    more, pyroute2 = document["not_asked_ms_more"]["median"], document["pyroute2_ms_more"]["median"]
    return {
        "hooks": _table(["ms", "median", "quartiles", "of the processor"], lines),
        "hooks-aims": _table(["", "at most, ms", "median", "quartiles", ""], aims),
        "hooks-more": f"A job that did not ask costs {more:.1f} ms more than a hook that is `exit 0` (median).\n"
        f"A process that imports pyroute2 starts {pyroute2:.0f} ms later than one with hpcnet's own netlink.\n",
    }


def _wall(wall: Document) -> list[str]:
    return [f"{wall['median']:.0f}", f"{wall['low']:.0f} to {wall['high']:.0f}"]


def _of_launch(document: Document) -> dict[str, str]:
    plain, network = document["median_ms"]["plain"], document["median_ms"]["network"]
    ratio = document["ratio"]
    verdict = "met" if ratio["median"] <= 2.5 else "missed"
    lines = [[name, *_wall(found)] for name, found in document["hooks_ms"].items()]
    return {
        "launch": f"{plain:.0f} ms without a network, {network:.0f} ms with one: {ratio['median']:.2f} times\n"
        f"as long (quartiles {ratio['low']:.2f} to {ratio['high']:.2f}; aim 2.5: {verdict}).\n",
        "launch-hooks": _table(["ms, as Slurm's daemon waits for it", "median", "quartiles"], lines),
        "requests": f"Requests that slurmctld got for a job with a network beyond one without: "
        f"{_requests(document['requests_more_with_a_network'])}.\n",
    }


def _requests(more: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {count:+.1f}" for name, count in more.items()) or "none"


def _of_scale(document: Document) -> dict[str, str]:
    nodes, jobs, store = document["nodes"], document["jobs"], document["leases"]
    lines = [[f"{int(size):,}", *_size(each)] for size, each in nodes["sizes"].items()]
    lines += [[f"{int(size):,}, with the defaults", *_size(each)] for size, each in nodes["defaults"].items()]
    growth = nodes["growth"]
    exponent = growth.get("prolog processor exponent")
    tables = {
        "scale": _table(["nodes of the job", "Prolog", "Epilog", "memory, MiB"], lines),
        "growth": f"From {growth['from']} to {growth['to']:,} nodes a Prolog takes "
        f"{growth['prolog wall more']:.0f} ms and {growth['prolog megabytes more']:.0f} MiB more"
        + (f"; the growth's exponent over the last step is {exponent:.2f}.\n" if exponent is not None else ".\n"),
    }
    if jobs:
        first, last = jobs["prolog"]["first"]["median"], jobs["prolog"]["last"]["median"]
        tables["jobs"] = (
            f"{jobs['jobs']} networks on one node at once: the last tenth of the Prologs took {last:.0f} ms of "
            f"the processor, the first {first:.0f}; of Epilogs the ratio is {jobs['epilog last / first']:.2f}.\n"
        )
    rows = {f"{name}, in memory": store[name] for name in store if name.endswith(" live")}
    rows.update({f"{name}, on disk": found for name, found in store["on disk"].items()})
    cells = (
        [name, f"{row['made']:,}", f"{row['microseconds']['median']:.0f}", f"{row['last / first']:.2f}",
         f"{row['open ms']:.1f}"]
        for name, row in rows.items()
    )  # fmt: skip
    tables["leases"] = _table(["leases", "made and freed", "us each", "last / first", "opening, ms"], cells)
    return tables


def _size(each: Document) -> list[str]:
    hooks = (each[hook] for hook in ("prolog", "epilog"))
    cells = [f"{hook['wall']['median']:.0f} ({hook['processor']['median']:.0f})" for hook in hooks]
    return [*cells, f"{each['prolog']['megabytes']['median']:.1f}"]


def _of_start(document: Document) -> dict[str, str]:
    lines = []
    for size, ways in document["endpoints"].items():
        for name, found in ways.items():
            frames = {kind: count for kind, count in found.items() if kind.startswith("job: ")}
            all_get = {kind: count for kind, count in frames.items() if "broadcast" in kind}
            kinds = ", ".join(
                f"{kind.rpartition('broadcast ')[2]} {count}" for kind, count in sorted(all_get.items())
            )
            lines.append([f"{int(size):,}", name, f"{sum(frames.values()):,}", kinds or "none"])
    return {"start": _table(["tasks", "", "frames of the job", "of which everybody gets"], lines)}


def _of_tuning(state: str) -> Callable[[Document], dict[str, str]]:
    def render(document: Document) -> dict[str, str]:
        lines = []
        for part, rows in document["parts"].items():
            lines.append([f"**{part}**", "", "", ""])
            for name, row in rows.items():
                cells = [f"{_ratio(found['to own'])[0]} ({_ratio(found['to own'])[1]})" for found in row.values()]
                lines.append([name, *cells])
        tests = next(iter(next(iter(document["parts"].values())).values()))
        return {f"tuning-{state}": _table([f"offloads {state}", *tests], lines)}

    return render


_RENDERERS: Mapping[str, Callable[[Document], dict[str, str]]] = {
    "table": _of_table,
    "hooks": _of_hooks,
    "launch": _of_launch,
    "scale": _of_scale,
    "start": _of_start,
    "tuning": _of_tuning("on"),
    "tuning-off": _of_tuning("off"),
}


if __name__ == "__main__":
    sys.exit(main())
