"""The sidecar, but that it saves what it has learned every 20 s: no measurement lasts for several times ten minutes."""

from overspill_sidecar import forecast
from overspill_sidecar.cli import main

forecast.SAVE_EVERY_S = 20.0
main()
