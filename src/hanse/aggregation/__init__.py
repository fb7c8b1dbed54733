"""Aggregation: reducers over ranges of stored updates, in an order that gives every runtime the same bits."""

from hanse.aggregation.bfloat16 import BFloat16
from hanse.aggregation.canonical import GROUP, Subtree, Tree, subtrees, total_weight, whole
from hanse.aggregation.codecs import codec_named
from hanse.aggregation.compression import Codec, decoded, encode_update, encoded_layout
from hanse.aggregation.folds import Fold, GroupFold, WeightedMean, WeightedSum
from hanse.aggregation.gathers import Bulyan, Choice, Gather, GeometricMedian, Krum, NormBound, RootTrust
from hanse.aggregation.int8 import Int8
from hanse.aggregation.refusals import EmptyCohort, Overflow, UpdatesRefused, ZeroWeight
from hanse.aggregation.running import Partial, RunningMean
from hanse.aggregation.selects import MeanAroundMedian, Median, Select, TrimmedMean
from hanse.aggregation.sources import ArraySink, ArraySource, BlobSink, BlobSource, Sink, Source, Values, Zeros
from hanse.aggregation.sparse import RandomK, TopK
from hanse.aggregation.step import Kind, Update, from_values
from hanse.aggregation.walk import aggregate

__all__ = [
    "GROUP",
    "ArraySink",
    "ArraySource",
    "BFloat16",
    "BlobSink",
    "BlobSource",
    "Bulyan",
    "Choice",
    "Codec",
    "EmptyCohort",
    "Fold",
    "Gather",
    "GeometricMedian",
    "GroupFold",
    "Int8",
    "Kind",
    "Krum",
    "MeanAroundMedian",
    "Median",
    "NormBound",
    "Overflow",
    "Partial",
    "RandomK",
    "RootTrust",
    "RunningMean",
    "Select",
    "Sink",
    "Source",
    "Subtree",
    "TopK",
    "Tree",
    "TrimmedMean",
    "Update",
    "UpdatesRefused",
    "Values",
    "WeightedMean",
    "WeightedSum",
    "ZeroWeight",
    "Zeros",
    "aggregate",
    "codec_named",
    "decoded",
    "encode_update",
    "encoded_layout",
    "from_values",
    "subtrees",
    "total_weight",
    "whole",
]
