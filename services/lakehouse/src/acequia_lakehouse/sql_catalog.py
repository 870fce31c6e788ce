"""pyiceberg's catalog in a database, which here closes what it has opened where it cannot come up."""

from pyiceberg.catalog.sql import SqlCatalog


class ClosingSqlCatalog(SqlCatalog):
    """SqlCatalog leaves the connections of a catalog that could not be opened to the garbage collector."""

    def __init__(self, name: str, **properties: str) -> None:
        try:
            super().__init__(name, **properties)
        except BaseException:
            if (engine := getattr(self, "engine", None)) is not None:
                engine.dispose()
            raise
