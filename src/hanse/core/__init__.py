"""Ground floor: records, codec, ids, errors, seeds and the seams. Imports nothing else of Hanse."""
