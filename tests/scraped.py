"""Metrics as they were scraped."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


class Metrics:
    """All samples of one scrape, of one daemon or of several."""

    def __init__(self, *texts: str) -> None:
        """Parse what daemons served."""
        self.samples = [
            (sample.name, sample.labels, sample.value)
            for text in texts
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of this name that have these labels; 0 if there is none."""
        return sum(value for found, has, value in self.samples if found == name and labels.items() <= has.items())
