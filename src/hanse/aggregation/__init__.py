"""Aggregation: reducers over ranges of stored updates, in an order that gives every runtime the same bits."""

from hanse.aggregation.canonical import GROUP, Subtree, Tree, subtrees, total_weight, whole
from hanse.aggregation.folds import Fold, GroupFold, WeightedMean, WeightedSum
from hanse.aggregation.gathers import Choice, Gather, Krum, NormBound
from hanse.aggregation.refusals import EmptyCohort, Overflow, UpdatesRefused, ZeroWeight
from hanse.aggregation.running import Partial, RunningMean
from hanse.aggregation.selects import Median, Select, TrimmedMean
from hanse.aggregation.sources import ArraySink, ArraySource, BlobSink, BlobSource, Sink, Source, Zeros
from hanse.aggregation.walk import Kind, Update, aggregate

__all__ = [
    "GROUP",
    "ArraySink",
    "ArraySource",
    "BlobSink",
    "BlobSource",
    "Choice",
    "EmptyCohort",
    "Fold",
    "Gather",
    "GroupFold",
    "Kind",
    "Krum",
    "Median",
    "NormBound",
    "Overflow",
    "Partial",
    "RunningMean",
    "Select",
    "Sink",
    "Source",
    "Subtree",
    "Tree",
    "TrimmedMean",
    "Update",
    "UpdatesRefused",
    "WeightedMean",
    "WeightedSum",
    "ZeroWeight",
    "Zeros",
    "aggregate",
    "subtrees",
    "total_weight",
    "whole",
]
