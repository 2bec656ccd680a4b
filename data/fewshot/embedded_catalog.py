"""The labelled datasets that come with the project (`data.embedded`); they need no download."""

from __future__ import annotations

from data.embedded.sets import embedded_template
from data.fewshot.labelled import DatasetSettings

TEMPLATES_SOURCE = "ours, after CLIP's"

EMBEDDED = {
    "icons": DatasetSettings(
        support="icons:novel_support",  # concepts and, in the queries, artists that icons:train lacks
        query="icons:novel_query",
        template=embedded_template("icons:novel_support"),
        templates_source="ours",
        title="Icons, novel concepts",
        licence="by icon set: MIT, Apache-2.0, CC BY 4.0 and others",
    ),
    "trashnet": DatasetSettings(
        support="photos:trashnet:train",
        query="photos:trashnet:test",
        template=embedded_template("photos:trashnet:train"),
        templates_source=TEMPLATES_SOURCE,
        title="TrashNet, 64 px",
        licence="MIT",
    ),
    "clothing": DatasetSettings(
        support="photos:clothing:train",
        query="photos:clothing:test",
        template=embedded_template("photos:clothing:train"),
        templates_source=TEMPLATES_SOURCE,
        title="Clothing dataset, 64 px",
        licence="CC0",
    ),
    "signdigits": DatasetSettings(
        support="photos:signdigits:train",
        query="photos:signdigits:test",
        template=embedded_template("photos:signdigits:train"),
        templates_source=TEMPLATES_SOURCE,
        title="Sign Language Digits, 64 px",
        licence="Apache-2.0",
    ),
}
