"""Methods of the comparison that are other groups' programs: nothing is trained, and they may not be installed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ExternalMethod:
    """A row of the comparison that a program fills; its attributes are those of `Method`."""

    name: str
    title: str
    citation: str
    longitudinal: bool


EXTERNAL = {
    method.name: method
    for method in (
        ExternalMethod(
            name="samseg",
            title="SAMSEG",
            citation="Cerri et al. (2023), NeuroImage: Clinical 38, 103354, doi:10.1016/j.nicl.2023.103354",
            longitudinal=True,
        ),
    )
}
