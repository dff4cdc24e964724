"""Methods of the comparison that are programs of others: nothing is trained, and they may be absent."""

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
