"""Stratified samples of tables of any size, with the weights that make estimates from them unbiased."""

from validation.sampling.checks import Check, Verification
from validation.sampling.first_look import FirstLook, first_look, look_of
from validation.sampling.stratified import Sample, stratified_sample

__all__ = ["Check", "FirstLook", "Sample", "Verification", "first_look", "look_of", "stratified_sample"]
