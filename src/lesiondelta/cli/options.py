"""Options that several commands share; those that set a field of `Settings` are one table."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from lesiondelta import __version__
from lesiondelta.cli import console
from lesiondelta.settings import DeviceName, PreprocessingSettings, SegmentationSettings, Settings, TrackingSettings

SELECTION, METHOD, COMPUTING = "Input", "Processing", "Computing"
SECTIONS: Mapping[str, type[BaseModel]] = {
    "preprocessing": PreprocessingSettings,
    "segmentation": SegmentationSettings,
    "tracking": TrackingSettings,
}
Given = Mapping[str, Mapping[str, object]]
"""Values from the command line by section and field of `Settings`."""


@dataclass(frozen=True)
class SettingOption:
    """An option that sets one field of `Settings`, where its choices, default and help are written."""

    section: str
    field: str
    name: str
    panel: str = METHOD

    @property
    def parameter(self) -> inspect.Parameter:
        """How typer takes it, as a parameter of the command's function."""
        info = SECTIONS[self.section].model_fields[self.field]
        several = self.field == "models"
        kind: Any = list[Path] | None if several else info.annotation
        metavar = "FOLDER" if several else None
        option = typer.Option(self.name, help=info.description, rich_help_panel=self.panel, metavar=metavar)
        return inspect.Parameter(
            self.name.partition("/")[0].lstrip("-").replace("-", "_"),
            inspect.Parameter.KEYWORD_ONLY,
            default=None if several else info.default,
            annotation=Annotated[kind, option],
        )


TABLE = (
    SettingOption("segmentation", "models", "--model"),
    SettingOption("preprocessing", "registration", "--registration"),
    SettingOption("preprocessing", "space", "--space"),
    SettingOption("preprocessing", "brain_extraction", "--brain-extraction"),
    SettingOption("preprocessing", "anatomy", "--anatomy"),
    SettingOption("preprocessing", "skull_strip", "--skull-strip"),
    SettingOption("preprocessing", "gate", "--gate/--no-gate"),
    SettingOption("preprocessing", "bias_correction", "--bias-correction/--no-bias-correction"),
    SettingOption("segmentation", "threshold", "--threshold"),
    SettingOption("segmentation", "min_lesion_mm3", "--min-lesion-volume"),
    SettingOption("segmentation", "overlap", "--overlap"),
    SettingOption("segmentation", "mirroring", "--mirroring/--no-mirroring"),
    SettingOption("tracking", "sensitivity", "--sensitivity"),
    SettingOption("tracking", "least_growth", "--least-growth"),
    SettingOption("tracking", "tolerance_mm", "--tolerance"),
    SettingOption("segmentation", "device", "--device", COMPUTING),
    SettingOption("segmentation", "backend", "--backend", COMPUTING),
    SettingOption("segmentation", "samseg_hours", "--samseg-hours", COMPUTING),
)
WITHOUT_OPTION = {"spacing_mm", "error_sd", "threads"}
"""Fields that follow from the model, are not to be chosen, or are set by --omp-nthreads."""


def takes_settings(*sections: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these sections; its parameter `given` receives what they say, a `Given`."""
    options = {option.parameter.name: option for option in TABLE if option.section in sections}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def with_options(**values: Any) -> None:  # noqa: ANN401
            given: dict[str, dict[str, object]] = {section: {} for section in sections}
            for name, option in options.items():
                value = values.pop(name)
                given[option.section][option.field] = tuple(value or ()) if option.field == "models" else value
            command(**values, given=given)

        own = inspect.signature(command).parameters
        place = list(own).index("given")
        kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for name, p in own.items() if name != "given"]
        parameters = [*kept[:place], *(option.parameter for option in options.values()), *kept[place:]]
        with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_options.__annotations__ = {p.name: p.annotation for p in parameters}
        return with_options

    return decorate


def settings_of(given: Given, threads: int) -> Settings:
    """The settings from what the options say; InputError in a sentence where a value is impossible."""
    threaded = {"preprocessing": {"threads": max(1, threads)}, "segmentation": {"threads": max(1, threads)}}
    return console.parsed(Settings, {name: {**section, **threaded.get(name, {})} for name, section in given.items()})


def preprocessing_of(given: Given, threads: int) -> PreprocessingSettings:
    """As `settings_of`, for commands that only prepare images."""
    return console.parsed(PreprocessingSettings, {**given["preprocessing"], "threads": max(1, threads)})


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"lesiondelta {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]
Participants = Annotated[
    list[str] | None,
    typer.Option(
        "--participant-label",
        metavar="LABEL",
        help="Use only these participants. Separate labels by spaces; sub- may be left out.",
        rich_help_panel=SELECTION,
    ),
]
Folds = Annotated[int, typer.Option(min=2, help="Number of folds, split by patient.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of folds, initial weights, sampling and augmentation.")]
Device = Annotated[DeviceName, typer.Option("--device", help="Where the network runs.", rich_help_panel=COMPUTING)]
Processes = Annotated[
    int, typer.Option("--nprocs", min=1, help="Patients to process in parallel.", rich_help_panel=COMPUTING)
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--omp-nthreads",
        min=1,
        help="Threads for each patient. Default: all cores, shared by patients that run in parallel.",
        rich_help_panel=COMPUTING,
    ),
]
WorkDir = Annotated[
    Path | None,
    typer.Option(help="Keep preprocessed images here, so that later runs can reuse them.", rich_help_panel=COMPUTING),
]
Timings = Annotated[
    bool,
    typer.Option(
        "--timings",
        help="Print the seconds of each stage, as recorded when each patient was last segmented.",
        rich_help_panel=COMPUTING,
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Output folder.", show_default=False)]
LabelledCohort = Annotated[
    Path,
    typer.Argument(metavar="COHORT", help="BIDS dataset with masks in derivatives/reference.", show_default=False),
]
