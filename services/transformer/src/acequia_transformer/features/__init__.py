"""What a model gets to see, per dataset. A dataset without an entry here keeps its canonical columns only."""

from collections.abc import Callable, Mapping

import polars as pl

from acequia_transformer.features import network_events

AddFeatures = Callable[[pl.DataFrame, int], pl.DataFrame]
"""Takes rows sorted by (event time, `_line`) and the seconds of a burst; gives them with the features behind."""

FEATURES: Mapping[str, AddFeatures] = {"network_events": network_events.add_features}
