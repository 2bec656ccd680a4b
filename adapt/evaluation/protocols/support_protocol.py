"""The protocol of support sets: their distribution over the classes, and their share of wrong labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

BALANCED, NATURAL, ZIPF = "balanced", "natural", "zipf"


class SupportProtocol(NamedTuple):
    """The distribution of support images over the classes, and the share of their labels that are wrong.

    `zipf_exponent` is 0 unless `balance` is "zipf".
    """

    balance: str = BALANCED
    zipf_exponent: float = 0.0
    label_noise: float = 0.0

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of rows of results; rows of earlier versions lack them and mean `STANDARD`."""
        return {
            "support_balance": self.balance,
            "zipf_exponent": self.zipf_exponent,
            "label_noise": self.label_noise,
        }

    @property
    def title(self) -> str:
        """A short description for headings, such as "zipf 1, 20% wrong labels"."""
        balance = f"{ZIPF} {self.zipf_exponent:g}" if self.balance == ZIPF else self.balance
        noise = f"{100 * self.label_noise:g}% wrong labels" if self.label_noise else ""
        parts = [balance if self.balance != BALANCED or not noise else "", noise]
        return ", ".join(filter(None, parts))

    @property
    def slug(self) -> str:
        """A short name for files and metrics, such as "zipf1-noise0.2"; empty for `STANDARD`."""
        balance = f"{ZIPF}{self.zipf_exponent:g}" if self.balance == ZIPF else self.balance
        noise = f"noise{self.label_noise:g}" if self.label_noise else ""
        return "-".join(filter(None, [balance if self.balance != BALANCED else "", noise]))

    @property
    def sentence(self) -> str:
        """A sentence for readers of a report; empty for `STANDARD`."""
        parts = {
            BALANCED: "",
            NATURAL: "Support sets have the class frequencies of the support split: one image of each class, then "
            "images at random up to shots × classes images.",
            ZIPF: f"Support sets are long-tailed: class frequencies fall as rank to the power of "
            f"−{self.zipf_exponent:g}, with one image or more of each class and shots × classes images in total. Each "
            "seed draws which classes are frequent.",
        }
        noise = (
            f"{100 * self.label_noise:g}% of the support labels are wrong, drawn at random for every support set. "
            "Hyper-parameters are selected on the wrong labels, too."
        )
        return " ".join(filter(None, [parts[self.balance], noise if self.label_noise else ""]))


STANDARD = SupportProtocol()


def protocol_of(row: Mapping[str, Any]) -> SupportProtocol | None:
    """Return the protocol of a row of results, or None for a row without a drawn support set."""
    if row["task"] in ("zero_shot", "retrieval"):
        return None
    if row["task"] == "linear_probe" and not row.get("label_noise"):
        return None
    return SupportProtocol(
        row.get("support_balance", BALANCED), row.get("zipf_exponent", 0.0), row.get("label_noise", 0.0)
    )
