"""The files of tables in a store whose certificate a CA of one's own has signed."""

from pyarrow.fs import FileSystem, S3FileSystem
from pyiceberg.io.pyarrow import PyArrowFileIO

CA_FILE = "acequia.ca-file"
"""Property of pyiceberg's FileIO: PEM of the CAs that are trusted."""


class TrustingFileIO(PyArrowFileIO):
    """pyiceberg has no property for the CA file that Arrow's S3 takes."""

    def _initialize_s3_fs(self, netloc: str | None) -> FileSystem:
        files = super()._initialize_s3_fs(netloc)
        assert isinstance(files, S3FileSystem)
        make, (arguments,) = files.__reduce__()  # as it would be pickled: all that it was made with
        return make({**arguments, "tls_ca_file_path": self.properties[CA_FILE]})


TRUSTING = f"{TrustingFileIO.__module__}.{TrustingFileIO.__name__}"
