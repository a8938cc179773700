"""Predictions that are fitted anew while the search goes on, to prunings it has turned to."""

from __future__ import annotations

import logging
import time

from autoprune._search.ledger import Ledger
from autoprune._search.prepare import Prepared
from autoprune.errors import DeviceError
from autoprune.store import RunFolder, device_file

_log = logging.getLogger(__name__)

EVERY = 6  # completed trials after which the front is looked at again
_MOST = 6  # its members that are measured at a time: those that take turns with the dense model
_SHARE = 0.1  # of the search's time, at most


class Relearning:
    """Measures the front's widths while no trial runs, refits, and lets the plan know.

    The widths alone count, so no weights are loaded. Prices and margins of the plan are those of
    the new fit from then on; records keep the prediction they were chosen by. Where a device
    fails, the search goes on with the profile made so far.
    """

    def __init__(self, ready: Prepared, store: RunFolder) -> None:
        self._ready, self._store = ready, store
        self._sites = {
            site.name: site
            for site in ready.sites
            if site.profile is not None and not site.is_elsewhere
        }
        self._seen = {
            tuple(sample.kept.items())
            for site in self._sites.values()
            if site.profile is not None
            for sample in site.profile.predictor.samples
        }
        self._complete, self._ended, self._took = 0, time.monotonic(), 0.0

    def is_due(self, ledger: Ledger) -> bool:
        """Whether it is time for it; false for ever where no device can be asked."""
        waited = time.monotonic() - self._ended
        return (
            bool(self._sites)
            and ledger.counts["complete"] - self._complete >= EVERY
            and self._took <= _SHARE * waited
            and bool(self._new(ledger))
        )

    def __call__(self, ledger: Ledger) -> None:
        """Measure and refit, now."""
        began, ready, kept = time.monotonic(), self._ready, self._new(ledger)
        ledger.show("search", "latencies of the front's widths")
        for name, site in self._sites.copy().items():
            try:
                found = site.extended(ready.dense, ready.graph, ready.gauge.example, kept)
            except DeviceError as error:
                _log.warning("the search goes on with the profile made so far: %s", error)
                del self._sites[name]
                continue
            assert found.profile is not None
            self._sites[name] = found
            ready.relearn(found)
            self._store.write_json(device_file(name), found.profile.to_dict())
        self._seen |= {tuple(one.items()) for one in kept}
        self._complete, self._ended = ledger.counts["complete"], time.monotonic()
        self._took = self._ended - began

    def _new(self, ledger: Ledger) -> list[dict[str, int]]:
        kept = [dict(record.candidate.architecture.widths) for record in ledger.front().members]
        return [one for one in kept if tuple(one.items()) not in self._seen][:_MOST]
