"""Who is tested and who is in which fold, split by patient: files that say what `compare` is going to do.

The paper trains on 129 of 162 patients in five folds and tests on 33. The same seed and number of folds give `compare`
the folds that are written here.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from lesiondelta.errors import CohortError
from lesiondelta.files import write_json, write_text
from lesiondelta.nnunet.training_patients import patient_folds


def draw_test(labels: Sequence[str], number: int, seed: int) -> set[str]:
    """Draw patients for testing; the order of `labels` does not matter."""
    if not 0 <= number < len(labels):
        raise CohortError(f"{number} of {len(labels)} patients cannot be kept for testing: see --test-patients.")
    return set(np.random.default_rng(seed).permutation(sorted(labels))[:number].tolist())


def read_test_list(path: Path, labels: Collection[str]) -> set[str]:
    """Read a text file with a participant a line, with or without `sub-`, and comments after `#`.

    Each has to be among `labels`.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CohortError(f"The test list {path} cannot be read: {error}.") from error
    listed = {line.partition("#")[0].strip().removeprefix("sub-") for line in lines} - {""}
    unknown = sorted(listed - set(labels))
    if unknown or not listed:
        raise CohortError(
            f"The test list {path} names {', '.join(unknown) or 'nobody'}: give participants of the cohort."
        )
    return listed


def fold_of(labels: Sequence[str], folds: int, seed: int) -> dict[str, int]:
    """The fold that holds each training patient out, as `compare` has it."""
    if len(labels) < folds:
        raise CohortError(f"{len(labels)} patients are left for training, too few for {folds} folds: see --folds.")
    parts = patient_folds(labels, folds, seed)
    return {label: fold for fold, part in enumerate(parts) for label in part.validation}


def remove_protocol(folder: Path) -> None:
    """Take away what `write_protocol` wrote."""
    for name in ("test.txt", "folds.tsv", "protocol.json"):
        (folder / name).unlink(missing_ok=True)


def write_protocol(
    folder: Path,
    test: Collection[str],
    held_out: dict[str, int],
    how: dict[str, object],
    external: Collection[str] = (),
) -> None:
    """Write `folds.tsv`, `protocol.json` (`how` the split came about), and `test.txt` where anybody is tested.

    Parameters
    ----------
    folder : Path
        Where to.
    test, external : collection of str
        Patients of the test list, and those of an external test set.
    held_out : dict of str to int
        The fold that holds each training patient out.
    how : dict
        Seeds and numbers.
    """
    if test:
        write_text(folder / "test.txt", "".join(f"sub-{label}\n" for label in sorted(test)))
    else:
        (folder / "test.txt").unlink(missing_ok=True)
    rows = [f"sub-{label}\ttrain\t{fold}" for label, fold in held_out.items()]
    rows += [f"sub-{label}\ttest\tn/a" for label in test] + [f"sub-{label}\texternal\tn/a" for label in external]
    write_text(folder / "folds.tsv", "\n".join(["participant_id\tsplit\tfold", *sorted(rows)]) + "\n")
    write_json(folder / "protocol.json", how)
