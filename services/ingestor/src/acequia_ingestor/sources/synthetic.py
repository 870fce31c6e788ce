from collections.abc import Iterator
from datetime import datetime

from acequia.events import SyntheticSource
from acequia_ingestor.formats import Chunk


def draw_network_events(source: SyntheticSource, start: datetime) -> Iterator[Chunk]:
    raise NotImplementedError
