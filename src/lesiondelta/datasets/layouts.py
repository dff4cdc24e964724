"""Datasets as their owners distribute them: how their files are named, their terms, and what is to be cited.

A layout is a pattern over the path of a file, from SRC's own name on, whose groups say what the file is: an `image` or
a `mask` of lesions of a `patient` and a `visit` (absent: the only one), or a file of the patient that is kept under its
`other` name. Where `test` takes part, the owners keep the patient for testing. What each layout rests on is said in
docs/data.md.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

IMAGES = {
    "flair": "FLAIR", "t1": "T1w", "t1w": "T1w", "mprage": "T1w", "t1wks": "ce-gadolinium_T1w", "t2": "T2w",
    "t2w": "T2w", "pd": "PDw", "pdw": "PDw",
}  # fmt: skip
"""BIDS names of the contrasts, by the owners' names in lower case."""

COMMON_SPACE = {
    "gt.nii.gz": "space-common_label-change_mask.nii.gz",
    "brainmask.nii.gz": "space-common_label-brain_mask.nii.gz",
}
"""Names for masks that lie in a patient's common space, by the owners' names."""


@dataclass(frozen=True)
class Layout:
    """One arrangement of files: its name, an example for messages, the pattern, and the masks every visit comes with.

    `masks` are in lower case; `sidecar` holds what is true of every image. `beside` is a pattern over the paths of
    images that the owners distribute too, and that are left out.
    """

    name: str
    example: str
    pattern: re.Pattern[str]
    masks: tuple[str, ...] = ()
    sidecar: Mapping[str, Any] = field(default_factory=dict)
    beside: re.Pattern[str] = field(default=re.compile("(?!)"), kw_only=True)


@dataclass(frozen=True)
class Dataset:
    """What is known of a dataset before its files are seen; `test_share` of the patients are drawn for testing."""

    name: str
    title: str
    source: str
    licence: str
    cite: str
    layouts: tuple[Layout, ...]
    test_share: float = 0.0


def _pattern(verbose: str) -> re.Pattern[str]:
    """Capitals do not count: a file system or an archive may have changed them."""
    return re.compile(verbose.replace("NIFTI", r"\.nii(?:\.gz)?"), re.VERBOSE | re.IGNORECASE)


BIDS = Layout(
    "BIDS",
    "sub-N/ses-N/anat/sub-N_ses-N_FLAIR.nii.gz",
    _pattern(r"[^/]+/ sub-(?P<patient>[^/]+)/ (?:ses-[^/]+/)? anat/ (?P<image>[^/]+_(?:FLAIR|T1w)) NIFTI"),
)
"""Recognised by its pattern, read by `bids.read_cohort`."""

OUTSIDE_RAW = _pattern(r"(?:.*/)? patient(?P<patient>\d+)/ patient(?P=patient)_ [^/]* NIFTI")
COREGISTERED = _pattern(r"(?:.*/)? coregistered[^/]*/ patient\d+/ [^/]* NIFTI")
ORIGINAL = _pattern(r"(?:.*/)? (?P<patient>(?:training|test)\d+)/orig/ (?P=patient)_ [^/]* NIFTI")
"""What the owners have made of the raw images, or have made the preprocessed ones of."""

LJUBLJANA = Dataset(
    "ljubljana",
    "Ljubljana MS database",
    "https://lit.fe.uni-lj.si/en/research/resources/",
    "CC-BY",
    "Lesjak Z. et al., Neuroinformatics 14, 403-420 (2016) for the longitudinal images; "
    "Lesjak Z. et al., Neuroinformatics 16, 51-63 (2018) for the cross-sectional ones",
    (
        Layout(
            "longitudinal",
            "patientN/raw/patientN_study1_FLAIR.nii.gz",
            _pattern(r"""(?:.*/)? patient(?P<patient>\d+)/ (?:
                raw/patient(?P=patient)_study(?P<visit>\d+)_(?P<image>FLAIR|T1W|T2W) NIFTI
                | (?:raw/)? patient(?P=patient)_
                  (?P<other> gt\.nii\.gz | brainmask\.nii\.gz | study\d+_\w+_to_\w+\.txt))"""),
            beside=OUTSIDE_RAW,
        ),
        Layout(
            "longitudinal as in open_ms_data",
            "raw/patientN/study1_FLAIR.nii.gz",
            _pattern(r"""(?:.*/)? (?:raw | coregistered(?=/patient\d+/brainmask)) /patient(?P<patient>\d+)/ (?:
                study(?P<visit>\d+)_(?P<image>FLAIR|T1W|T2W) NIFTI
                | (?P<other> gt\.nii\.gz | brainmask\.nii\.gz | study\d+_\w+_to_\w+\.txt))"""),
            beside=COREGISTERED,
        ),
        Layout(
            "cross-sectional",
            "patientN/raw/patientN_FLAIR.nii.gz with patientN/patientN_consensus_gt.nii.gz",
            _pattern(r"""(?:.*/)? patient(?P<patient>\d+)/ (?:
                raw/patient(?P=patient)_(?P<image>FLAIR|T1W|T1WKS|T2W)
                | patient(?P=patient)_(?P<mask>consensus_gt)) NIFTI"""),
            ("consensus_gt",),
            beside=OUTSIDE_RAW,
        ),
        Layout(
            "cross-sectional as in open_ms_data",
            "raw/patientN/FLAIR.nii.gz with raw/patientN/consensus_gt.nii.gz",
            _pattern(r"""(?:.*/)? raw/patient(?P<patient>\d+)/
                (?: (?P<image>FLAIR|T1W|T1WKS|T2W) | (?P<mask>consensus_gt)) NIFTI"""),
            ("consensus_gt",),
            beside=COREGISTERED,
        ),
        BIDS,
    ),
    test_share=33 / 162,
)

ISBI2015 = Dataset(
    "isbi2015",
    "ISBI 2015 longitudinal MS lesion segmentation challenge",
    "https://smart-stats-tools.org/lesion-challenge-2015",
    "see the terms of the challenge's site",
    "Carass A. et al., NeuroImage 148, 77-102 (2017)",
    (
        Layout(
            "training data",
            "training01/preprocessed/training01_01_flair_pp.nii with training01/masks/training01_01_mask1.nii",
            _pattern(r"""(?:.*/)? (?P<patient>training\d+)/(?:preprocessed|masks)/ (?P=patient)_(?P<visit>\d+)_
                (?: (?P<image>flair|mprage|t2|pd)_pp | (?P<mask>mask[12])) NIFTI"""),
            ("mask1", "mask2"),
            {"SkullStripped": True},
            beside=ORIGINAL,
        ),
        Layout(
            "test data",
            "test01/preprocessed/test01_01_flair_pp.nii",
            _pattern(r"""(?:.*/)? (?P<patient>test\d+)/preprocessed/ (?P=patient)_(?P<visit>\d+)_
                (?P<image>flair|mprage|t2|pd)_pp NIFTI"""),
            sidecar={"SkullStripped": True},
            beside=ORIGINAL,
        ),
    ),
)

MSLESSEG = Dataset(
    "mslesseg",
    "MSLesSeg",
    "https://doi.org/10.6084/m9.figshare.27919209",
    "CC BY 4.0",
    "Guarnera F. et al., Scientific Data 12, 920 (2025)",
    (
        Layout(
            "train and test",
            "train/P1/T1/P1_T1_FLAIR.nii.gz",
            _pattern(r"""(?:.*/)? (?:train | (?P<test>test)) /(?P<patient>P\d+)/ (?:T(?P<visit>\d+)/)?
                (?P=patient)_(?:T(?P=visit)_)? (?: (?P<image>FLAIR|T1|T2) | (?P<mask>MASK)) NIFTI"""),
            ("mask",),
            {"SkullStripped": True},
        ),
    ),
)
