"""Results by the protocol of their support sets, which are never shown in one table, chart or ranking."""

from __future__ import annotations

from collections.abc import Sequence

from adapt.evaluation.protocols.support_protocol import STANDARD, SupportProtocol, protocol_of
from adapt.report.results_index import ResultsIndex, Run
from adapt.report.sections.section import Section


def index_by_protocol(runs: Sequence[Run], *, transductive: bool = False) -> dict[SupportProtocol, ResultsIndex]:
    """Return an index of the rows of each protocol, the standard one first.

    The first index also has the rows without a drawn support set, such as zero-shot and retrieval. Runs without any
    rows of a protocol are left out of its index. `transductive` is as in `ResultsIndex`.
    """
    found = {protocol for run in runs for row in run.results if (protocol := protocol_of(row)) is not None}
    protocols = sorted(found, key=lambda protocol: (protocol != STANDARD, protocol)) or [STANDARD]
    if len(protocols) == 1:
        return {protocols[0]: ResultsIndex(runs, transductive=transductive)}
    indexes = {}
    for protocol in protocols:
        wanted = (protocol, None) if protocol == protocols[0] else (protocol,)
        own = [run._replace(results=[row for row in run.results if protocol_of(row) in wanted]) for run in runs]
        indexes[protocol] = ResultsIndex([run for run in own if run.results], transductive=transductive)
    return indexes


def label_sections(sections: Sequence[Section], protocol: SupportProtocol) -> list[Section]:
    """Return sections with the protocol in their headings, and in the names and titles of their tables and charts."""
    if protocol == STANDARD:
        return list(sections)
    return [
        section._replace(
            title=f"{section.title} ({protocol.title})",
            tables=[
                table._replace(name=f"{table.name}-{protocol.slug}", title=f"{table.title} ({protocol.title})")
                for table in section.tables
            ],
            charts=[
                chart._replace(name=f"{chart.name}-{protocol.slug}", title=f"{chart.title} ({protocol.title})")
                for chart in section.charts
            ],
        )
        for section in sections
    ]
