"""The models and strategy states that a simulated run still needs, in memory, under the names of a federation."""

from collections.abc import Collection

from hanse.aggregation import ArraySource
from hanse.core.arrays import Arrays, Layout
from hanse.core.blobs import Manifest, content_hash, rechunk
from hanse.core.codec import encode_parts, encoded_size
from hanse.core.ids import model_scope
from hanse.core.records import BlobRef
from hanse.rounds.events import BlobKey

COMPONENT = "main"


class Models:
    """Arrays by the key of the blob that they would be."""

    def __init__(self, job: str) -> None:
        self.arrays: dict[BlobKey, Arrays] = {}
        self.refs: dict[BlobKey, BlobRef] = {}
        """How a task names them; without content."""
        self._job = job
        self._sizes: dict[Layout, int] = {}
        self._last_size: tuple[Layout | None, int] = (None, 0)

    def keep(self, round_: int, arrays: Arrays) -> BlobKey:
        """Keep arrays, which must not change any more; their key."""
        hashes = b"".join(content_hash(chunk) for _, chunk in rechunk(encode_parts(arrays)))
        manifest = Manifest(self.size(arrays.layout), hashes)
        key = (model_scope(self._job, COMPONENT, round_), manifest.id)
        self.arrays[key] = arrays
        self.refs[key] = BlobRef(manifest, key[0])
        return key

    def keep_only(self, keys: Collection[BlobKey | None]) -> None:
        """Forget all others."""
        self.arrays = {key: arrays for key, arrays in self.arrays.items() if key in keys}
        self.refs = {key: ref for key, ref in self.refs.items() if key in keys}

    def source(self, key: BlobKey) -> ArraySource:
        """To reduce with."""
        return ArraySource(self.arrays[key])

    def size(self, layout: Layout) -> int:
        """Bytes that arrays of this layout would travel as."""
        last, size = self._last_size
        if last is layout:
            return size
        if layout not in self._sizes:
            self._sizes[layout] = encoded_size(layout)
        self._last_size = layout, self._sizes[layout]
        return self._last_size[1]
