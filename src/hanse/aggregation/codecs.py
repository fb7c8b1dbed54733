"""Every codec by its name, and codecs as plain data, which is how a job names one."""

from collections.abc import Mapping
from typing import Any

from hanse.aggregation.bfloat16 import BFloat16
from hanse.aggregation.compression import Codec
from hanse.aggregation.int8 import Int8
from hanse.aggregation.sparse import RandomK, TopK
from hanse.core.errors import ConfigError


def codecs() -> dict[str, type[Codec]]:
    """Every codec by its name."""
    return {kind.name: kind for kind in (Int8, BFloat16, TopK, RandomK)}


def codec_named(value: Mapping[str, Any]) -> Codec:
    """Make a codec from plain data, `{"name": …, parameter: …}`.

    Raises:
        ConfigError: an unknown name, or parameters that it does not take.
    """
    known, name = codecs(), value.get("name")
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"compression: expected one of {', '.join(known)}; found {str(name)[:60]!r}")
    try:
        return known[name](**{key: item for key, item in value.items() if key != "name"})
    except TypeError:
        raise ConfigError(f"compression {name}: unknown parameters among {sorted(map(str, value))[:8]}") from None


def as_data(codec: Codec) -> dict[str, Any]:
    """What `codec_named` reads."""
    return {"name": codec.name, **codec.params()}
