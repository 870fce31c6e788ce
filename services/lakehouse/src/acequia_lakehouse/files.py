"""The files of tables as they lie in the store: read as they are or not at all, and by a CA of one's own."""

from pyarrow.fs import FileSystem, S3FileSystem
from pyiceberg.io import InputStream
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO

from acequia_lakehouse.reading import Reading

CA_FILE = "acequia.ca-file"
"""Property of pyiceberg's FileIO: PEM of the CAs that are trusted."""
_ASKED = 4
"""How often the store is asked before a file is taken for empty."""


class StoreFileIO(PyArrowFileIO):
    """pyiceberg's own, which also sees where Arrow has read nothing (reading.py), and takes CA_FILE."""

    def new_input(self, location: str) -> PyArrowFile:
        scheme, netloc, path = self.parse_location(location, self.properties)
        return _StoreFile(location, path, self.fs_by_scheme(scheme, netloc))

    def _initialize_s3_fs(self, netloc: str | None) -> FileSystem:
        files = super()._initialize_s3_fs(netloc)
        if CA_FILE not in self.properties:
            return files
        assert isinstance(files, S3FileSystem)
        make, (arguments,) = files.__reduce__()  # as it would be pickled: all that it was made with
        return make({**arguments, "tls_ca_file_path": self.properties[CA_FILE]})


class _StoreFile(PyArrowFile):
    def open(self, seekable: bool = True) -> InputStream:
        reading = Reading(super().open(seekable=True))
        for _ in range(_ASKED - 1):
            if reading.size:  # no file of a table is empty: what is, somebody has damaged
                break
            reading.close()
            reading = Reading(super().open(seekable=True))
        return reading


STORE_FILES = f"{StoreFileIO.__module__}.{StoreFileIO.__name__}"
