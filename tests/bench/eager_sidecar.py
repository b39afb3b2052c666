"""The sidecar, but that it saves what it has learned every 45 s: no measurement lasts for ten minutes."""

from overspill_sidecar import forecast
from overspill_sidecar.cli import main

forecast.SAVE_EVERY_S = 45.0
main()
