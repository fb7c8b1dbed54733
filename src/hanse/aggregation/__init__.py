"""Aggregation: reducers over ranges of stored updates, in an order that gives every runtime the same bits."""

from hanse.aggregation.canonical import GROUP, Subtree, Tree, subtrees, total_weight, whole
from hanse.aggregation.folds import Fold, GroupFold, WeightedMean, WeightedSum
from hanse.aggregation.gathers import Bulyan, Choice, Gather, GeometricMedian, Krum, NormBound, RootTrust
from hanse.aggregation.refusals import EmptyCohort, Overflow, UpdatesRefused, ZeroWeight
from hanse.aggregation.running import Partial, RunningMean
from hanse.aggregation.selects import MeanAroundMedian, Median, Select, TrimmedMean
from hanse.aggregation.sources import ArraySink, ArraySource, BlobSink, BlobSource, Sink, Source, Zeros
from hanse.aggregation.walk import Kind, Update, aggregate

__all__ = [
    "GROUP",
    "ArraySink",
    "ArraySource",
    "BlobSink",
    "BlobSource",
    "Bulyan",
    "Choice",
    "EmptyCohort",
    "Fold",
    "Gather",
    "GeometricMedian",
    "GroupFold",
    "Kind",
    "Krum",
    "MeanAroundMedian",
    "Median",
    "NormBound",
    "Overflow",
    "Partial",
    "RootTrust",
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
