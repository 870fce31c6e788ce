"""Where rows come from that no file holds."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from types import MappingProxyType

from acequia.events import SyntheticSource
from acequia_ingestor.formats import Chunk
from acequia_ingestor.sources.synthetic import draw_network_events

Generator = Callable[[SyntheticSource, datetime], Iterator[Chunk]]
GENERATORS: Mapping[str, Generator] = MappingProxyType({"network_events": draw_network_events})
"""A generator for each dataset that has one."""
