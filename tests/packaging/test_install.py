"""The packages on fresh machines: everything here uses what is installed there, and nothing of the checkout."""

from __future__ import annotations

from tests.packaging.machines import Machines


def test_the_how_to_leads_to_a_diverted_job(installed: Machines) -> None:
    assert installed.cluster.run(["overspill", "--version"], check=True).stdout.startswith("overspill")
