"""Methods of the comparison that are programs of others: nothing is trained, and they may be absent."""

import shutil
from dataclasses import dataclass


@dataclass(frozen=True)
class ExternalMethod:
    """A row of the comparison that a program fills.

    Attributes
    ----------
    name, title, citation, longitudinal : as of `Method`
    program : str
        The executable that has to be found.
    advice : str
        How to get it.
    """

    name: str
    title: str
    citation: str
    longitudinal: bool
    program: str
    advice: str

    def unavailable(self) -> str:
        """Why it has no scores."""
        if shutil.which(self.program) is None:
            return f"{self.program} is not here; {self.advice}"
        return f"{self.program} is here, but this version does not run it"


EXTERNAL = {
    method.name: method
    for method in (
        ExternalMethod(
            name="samseg",
            title="SAMSEG",
            citation="Cerri et al. (2023), NeuroImage: Clinical 38, 103354, doi:10.1016/j.nicl.2023.103354",
            longitudinal=True,
            program="run_samseg_long",
            advice="install FreeSurfer 7.3 or later",
        ),
    )
}
