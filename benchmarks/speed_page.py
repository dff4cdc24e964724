"""The page docs/results/speed of what `speed.py` measured."""

import json
import platform
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

NNUNET = "nnU-Net's predictor"
REPOSITORY = Path(__file__).parents[1]


def write_page(work: Path, out: Path, old: Path) -> None:
    """README.md and scaling.png of all parts that are in WORK."""
    out.mkdir(parents=True, exist_ok=True)
    measured = {path.stem: pd.read_csv(path, sep="\t") for path in sorted(work.glob("*.tsv"))}
    if "visits" in measured:
        _draw(out / "scaling.png", measured["visits"])
    sections = [part(measured[name], work) for name, part in SECTIONS.items() if name in measured]
    for name, table in measured.items():
        table.round(3).to_csv(out / f"{name}.tsv", sep="\t", index=False)
    (out / "README.md").write_text("\n\n".join([_head(old), *sections]) + "\n", encoding="utf-8")


def _head(old: Path) -> str:
    commits = [_commit(one) for one in (REPOSITORY, old)]
    return f"""# Speed

```
python benchmarks/speed.py WORK docs/results/speed --old CHECKOUT --peers PEERS
```

At {commits[0]}, against {commits[1]}, in one environment and with the weights of the earlier commit, each part in one
run and nothing beside it. {platform.machine()}, {_processor()}, {_cores()} cores. "CPU s" are seconds of all
processes; memory is the most that all processes of a command held at once."""


def _commit(checkout: Path) -> str:
    return subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else "unknown processor"


def _cores() -> int:
    return Path("/proc/cpuinfo").read_text(encoding="utf-8").count("processor\t")


def _table(table: pd.DataFrame, columns: Mapping[str, str]) -> str:
    """Markdown, with the columns' names and formats: {column: "title|format"}."""
    titles, formats = zip(*(one.split("|") for one in columns.values()), strict=True)
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for row in table.to_dict("records"):
        cells = (format(row[str(name)], shape) for name, shape in zip(columns, formats, strict=True))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


USED = {"seconds": "s|.0f", "cpu_seconds": "CPU s|.0f", "peak_gb": "GB|.2f"}


def _pair(table: pd.DataFrame, work: Path) -> str:
    mean = table.groupby("commit").mean(numeric_only=True)
    wall, cpu = (mean.loc["new", name] / mean.loc["old", name] for name in ("seconds", "cpu_seconds"))
    stages = json.loads((work / "stages.json").read_text())
    own = pd.DataFrame([{"stage": name, **spent} for name, spent in stages.items()])
    shown = _table(own, {"stage": "stage|", "wall": "s|.1f", "processor": "CPU s|.1f"})
    return f"""## A raw pair, start to report

Sub-12 (0.7 x 0.7 x 3 mm). New to old: **{wall:.2f} of the wall clock**, {cpu:.2f} of the processor time;
{table.same_lesion_voxels.iloc[0]:.2%} of the lesion voxels are the same (Dice of both visits' masks).

{_table(table, {"commit": "commit|", **USED})}

{shown}"""


def _predictor(table: pd.DataFrame, _: Path) -> str:
    pivot = table.pivot_table(index="threads", columns="by", values="cpu_seconds")
    shares = pivot["openvino"] / pivot[NNUNET]
    ratios = ", ".join(f"{share:.2f} ({threads} threads)" for threads, share in shares.items())
    shown = _table(table, {"by": "by|", "threads": "threads|d", "seconds": "s|.1f", "cpu_seconds": "CPU s|.1f",
                           "same_lesion_voxels": "Dice with nnU-Net's|.4f"})  # fmt: skip
    return f"""## The network: nnU-Net's predictor with the same weights

The prepared pair of sub-12, the model's own overlap, no mirroring. nnU-Net's predictor gets each visit with its prior
as channels, and encodes both each time. Processor time with OpenVINO, of that of nnU-Net's predictor: {ratios}.

{shown}"""


def _registration(table: pd.DataFrame, _: Path) -> str:
    shown = _table(table, {"engine": "engine|", "seconds": "s|.1f", "cpu_seconds": "CPU s|.1f",
                           "mean_mm": "mean mm|.2f", "largest_mm": "largest mm|.2f"})  # fmt: skip
    return f"""## Registration

The second FLAIR of sub-12 to the first, affine, from raw heads; distance from the data set authors' transforms inside
the brain (CC-BY, Lesjak et al. 2016). Loading is not counted for elastix and niimath.

{shown}"""


def _visits(table: pd.DataFrame, _: Path) -> str:
    base = table.seconds_a_visit.iloc[0]
    shares = ", ".join(f"{row.seconds_a_visit / base:.2f} at {row.visits:.0f}" for row in table.itertuples())
    return f"""## More visits

The first visit of sub-12, moved and with noise. Time per visit, of that of two visits: {shares}.

{_table(table, {"visits": "visits|.0f", **USED, "seconds_a_visit": "s a visit|.1f"})}

![Seconds and memory by the number of visits](scaling.png)"""


def _large(table: pd.DataFrame, _: Path) -> str:
    return f"""## Cubes of half a millimetre

One visit of sub-12, resampled.

{_table(table, {"grid": "grid|", **USED})}"""


def _cohort(table: pd.DataFrame, _: Path) -> str:
    return f"""## A cohort

Eight open heads of two sites, each with a second visit (the first, moved and with noise), a process a core.

{_table(table, {"commit": "commit|", **USED, "patients_an_hour": "patients an hour|.1f"})}"""


def _draw(path: Path, table: pd.DataFrame) -> None:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axes, column, label in zip(figure.subplots(1, 2), ("seconds", "peak_gb"), ("seconds", "GB"), strict=True):
        axes.plot(table.visits, table[column], "o-", color="#2f6fb3")
        axes.set(xlabel="visits", ylabel=label, ylim=(0, None), xticks=table.visits)
    figure.savefig(path, dpi=110)


SECTIONS: Mapping[str, Callable[[pd.DataFrame, Path], str]] = {
    "pair": _pair, "predictor": _predictor, "registration": _registration, "visits": _visits, "large": _large,
    "cohort": _cohort,
}  # fmt: skip
